// Texts to copy. Without it they can be marked by hand.
(function () {
  "use strict";
  const told = document.querySelector("[data-copied]");

  // Where the clipboard is closed to a page, its text is marked, so that the keyboard can copy it.
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text.textContent);
      return "Copied";
    } catch (refused) {
      const range = document.createRange();
      range.selectNodeContents(text);
      const chosen = getSelection();
      chosen.removeAllRanges();
      chosen.addRange(range);
      return document.execCommand("copy") ? "Copied" : "Marked: copy it with the keyboard";
    }
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const said = await copy(document.getElementById(button.dataset.copy));
      button.textContent = said;
      told.textContent = said;
      setTimeout(() => { button.textContent = "Copy"; told.textContent = ""; }, 2500);
    });
  }
})();
