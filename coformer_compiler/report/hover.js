"use strict";
// Pointing at a device's name dims what belongs to the others.
document.querySelectorAll("[data-lights]").forEach((name) => {
  const light = (on) => {
    document.body.classList.toggle("hush", on);
    document.querySelectorAll("[data-device]").forEach((part) => {
      part.classList.toggle("lit", on && part.dataset.device === name.dataset.lights);
    });
  };
  name.addEventListener("pointerenter", () => light(true));
  name.addEventListener("pointerleave", () => light(false));
});
