"use strict";
const [NAME, KIND, DEPTH, START, LENGTH, STATUS, SELF, CRITICAL, TOKENS, INPUT, OUTPUT, ERROR, ATTRIBUTES, ID] = Array(14).keys();
const at = (id) => document.getElementById(id);
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const seconds = (us) => {
  if (us === null || us < 0) return "open";
  if (us === 0) return "0 s";
  if (us < 1e3) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${Math.round(us / 1e3)} ms`;
  const s = us / 1e6;
  return s < 10 ? `${s.toFixed(2)} s` : s < 100 ? `${s.toFixed(1)} s` : `${Math.round(s).toLocaleString("en")} s`;
};
