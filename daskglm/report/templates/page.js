
"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const offer = () => { theme.textContent = dark ? "Light theme" : "Dark theme"; };
  theme.hidden = false;
  offer();
  theme.addEventListener("click", () => {
    dark = !dark;
    root.dataset.theme = dark ? "dark" : "light";
    offer();
  });

  const contents = document.getElementById("contents");
  if (contents && matchMedia("(max-width: 64rem)").matches) contents.open = false;

  for (const viewer of document.querySelectorAll(".viewer")) {
    const frame = viewer.querySelector("iframe");
    viewer.addEventListener("toggle", () => {
      if (viewer.open && !frame.srcdoc) frame.srcdoc = frame.dataset.page;
    });
  }

  // Within another page (a notebook), "#place" would be a place of that page.
  if (location.protocol !== "about:") return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    document.getElementById(link.hash.slice(1)).scrollIntoView();
  });
})();
