"use strict";
// Everything is on the page without this: it adds values under the pointer, switches for configurations and axes.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");

for (const item of all(".legend li[data-c]")) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  const label = document.createElement("label");
  label.append(box, ...item.childNodes);
  item.append(label);
  box.addEventListener("change", () => {
    for (const mark of all("svg g[data-c]")) {
      if (mark.dataset.c === item.dataset.c) mark.style.display = box.checked ? "" : "none";
    }
  });
}

for (const details of all("details.other")) {
  const usual = details.previousElementSibling;
  const other = details.querySelector(".panels");
  const text = details.querySelector("summary").textContent;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.setAttribute("aria-pressed", "false");
  usual.before(button);
  other.hidden = true;
  details.replaceWith(other);
  button.addEventListener("click", () => {
    other.hidden = !other.hidden;
    usual.hidden = !other.hidden;
    button.setAttribute("aria-pressed", String(!other.hidden));
  });
}

for (const picture of all("figure > svg")) {
  const lines = all("g[data-x]", picture).map((group) => {
    const places = group.querySelector("polyline").getAttribute("points").trim().split(" ");
    const numbers = (name) => (group.dataset[name] ? group.dataset[name].split(" ") : []);
    return {
      group, name: group.dataset.c, x: numbers("x"), y: numbers("y"), low: numbers("low"), high: numbers("high"),
      at: places.map((place) => place.split(",").map(Number)),
    };
  });
  if (!lines.length) continue;
  const dot = document.createElementNS(SVG, "circle");
  for (const [name, value] of [["r", 5], ["fill", "none"], ["stroke", "currentColor"], ["stroke-width", 2]]) {
    dot.setAttribute(name, value);
  }
  const visible = () => lines.filter((line) => line.group.style.display !== "none");
  let line = lines[0];
  let index = 0;

  const show = () => {
    const [x, y] = line.at[index];
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    picture.append(dot);
    const range = line.low.length ? ` (${line.low[index]} to ${line.high[index]})` : "";
    tip.textContent = `${line.name}, ${picture.dataset.x} ${line.x[index]}: ${line.y[index]}${range}`;
    tip.hidden = false;
    const place = new DOMPoint(x, y).matrixTransform(picture.getScreenCTM());
    const left = Math.min(place.x + 12, document.documentElement.clientWidth - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, place.y - tip.offsetHeight - 10)}px`;
  };
  const hide = () => {
    dot.remove();
    tip.hidden = true;
  };

  picture.addEventListener("pointermove", (event) => {
    const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    let nearest = Infinity;
    for (const candidate of visible()) {
      candidate.at.forEach(([x, y], place) => {
        const distance = (x - here.x) ** 2 + (y - here.y) ** 2;
        if (distance < nearest) [nearest, line, index] = [distance, candidate, place];
      });
    }
    if (nearest < Infinity) show();
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.setAttribute("tabindex", "0");
  picture.addEventListener("focus", () => {
    if (visible().length && picture.matches(":focus-visible")) show();
  });
  picture.addEventListener("keydown", (event) => {
    const some = visible();
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") hide();
    if (!steps || !some.length) return;
    event.preventDefault();
    line = some[(some.indexOf(line) + steps[1] + some.length) % some.length];
    index = Math.min(Math.max(index + steps[0], 0), line.at.length - 1);
    show();
  });
}

addEventListener("beforeprint", () => {
  for (const details of all("details")) details.open = true;
});
