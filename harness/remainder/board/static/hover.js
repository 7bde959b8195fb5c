// What a point of a figure stands for, as soon as it is pointed at or reached by keyboard. Without it the browser
// shows the same text, later.
(function () {
  "use strict";
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  let held = null;

  // The nearest part that has a title of its own: a point, not the whole figure.
  function titled(at) {
    const part = at.closest && at.closest("svg.figure circle, svg.figure polygon, svg.figure a");
    if (!part) return null;
    return part.querySelector("title") || part._title || null;
  }

  function put(x, y) {
    const room = 12;
    tip.style.left = Math.max(4, Math.min(x + room, innerWidth - tip.offsetWidth - 4)) + "px";
    const below = y + room + tip.offsetHeight < innerHeight;
    tip.style.top = (below ? y + room : Math.max(4, y - room - tip.offsetHeight)) + "px";
  }

  function hide() {
    if (!held) return;
    held.part.append(held.title); // back where readers of the page find it
    held = null;
    tip.hidden = true;
  }

  function show(at, x, y) {
    const title = titled(at);
    if (!title) { hide(); return; }
    if (!held || held.title !== title) {
      hide();
      held = { part: title.parentNode, title };
      held.part._title = title;
      title.remove(); // or the browser shows it a second time
      tip.textContent = title.textContent;
      tip.hidden = false;
    }
    put(x, y);
  }

  document.addEventListener("pointermove", (event) => show(event.target, event.clientX, event.clientY));
  document.addEventListener("focusin", (event) => {
    const box = event.target.getBoundingClientRect();
    show(event.target, box.right, box.bottom);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true, capture: true });
})();
