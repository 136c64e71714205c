"use strict";
const [NAME, KIND, DEPTH, START, LENGTH, STATUS, SELF, CRITICAL, TOKENS, INPUT, OUTPUT, ERROR, ATTRIBUTES, ID] = Array(14).keys();
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const seconds = (us) => {
  if (us === null || us < 0) return "open";
  if (us === 0) return "0 s";
  let [value, unit] = [us, "µs"];
  for (const larger of ["ms", "s"]) if (Math.round(value) >= 1e3) [value, unit] = [value / 1e3, larger];
  if (value >= 99.95) return `${Math.round(value).toLocaleString("en")} ${unit}`;
  return `${value.toFixed(value < 9.995 ? 2 : 1)} ${unit}`;
};
