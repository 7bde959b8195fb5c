// Colours: as the system has them, or as the reader chose. Loaded before the page is painted.
(function () {
  "use strict";
  const root = document.documentElement;
  const KEY = "remainder-theme";
  const CHOICES = ["auto", "light", "dark"];

  function stored() {
    try { return localStorage.getItem(KEY); } catch (refused) { return null; } // storage may be switched off
  }

  function show(choice) {
    if (choice === "auto") delete root.dataset.theme; else root.dataset.theme = choice;
    const button = document.querySelector("button.theme");
    if (button) {
      button.hidden = false;
      button.textContent = "Colours: " + { auto: "automatic", light: "light", dark: "dark" }[choice];
      button.title = "Automatic, light or dark";
    }
    document.dispatchEvent(new CustomEvent("remainder-theme"));
  }

  let choice = CHOICES.includes(stored()) ? stored() : "auto";
  show(choice);
  document.addEventListener("DOMContentLoaded", () => {
    show(choice);
    document.querySelector("button.theme").addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      try { localStorage.setItem(KEY, choice); } catch (refused) { /* then for this page only */ }
      show(choice);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(choice));
})();
