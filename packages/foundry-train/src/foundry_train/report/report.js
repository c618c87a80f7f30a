"use strict";
// Saves a plot as SVG or its points as CSV, and shows one horizontal axis at a time.
(function () {
  function save(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }
  for (const button of document.querySelectorAll("button[data-save]")) {
    button.addEventListener("click", function () {
      const figure = button.closest("figure");
      if (button.dataset.save === "csv") {
        save(figure.id + ".csv", figure.querySelector("template.csv").content.textContent, "text/csv");
      } else {
        const drawing = new XMLSerializer().serializeToString(figure.querySelector("svg"));
        save(figure.id + ".svg", drawing, "image/svg+xml");
      }
    });
  }
  const switches = document.querySelectorAll("button[data-axis]");
  function show(axis) {
    for (const group of document.querySelectorAll("[data-axis-group]")) {
      group.hidden = group.dataset.axisGroup !== axis;
    }
    for (const button of switches) {
      button.setAttribute("aria-pressed", String(button.dataset.axis === axis));
    }
  }
  for (const button of switches) {
    button.addEventListener("click", function () { show(button.dataset.axis); });
  }
  if (switches.length) { show("step"); }
  document.documentElement.dataset.script = "done";
})();
