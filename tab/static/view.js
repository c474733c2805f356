// Pure functions: which steps are in view, how a view stands in a link, and colours.

/** Pixels left of the steps in a picture, the height of a curve, and the gap between two parts. */
export const [LEFT, CURVE, GAP] = [72, 46, 8];

/** The window {from, to} of at least 8 steps, moved and cut so that it lies within the episode. */
export function clampWindow(window, steps) {
  const width = Math.min(Math.max(window.to - window.from, Math.min(8, steps)), steps);
  const from = Math.min(Math.max(window.from, 0), steps - width);
  return { from, to: from + width };
}

/** The window scaled by `factor` about a step that stays in place. */
export function zoomWindow(window, factor, about, steps) {
  const width = Math.min(Math.max((window.to - window.from) * factor, Math.min(8, steps)), steps);
  const share = (about - window.from) / (window.to - window.from);
  return clampWindow({ from: about - share * width, to: about + (1 - share) * width }, steps);
}

/** The level of tiles whose columns are about a pixel wide, or single steps. */
export function levelFor(stepsPerPixel, steps, tile) {
  const coarsest = Math.max(0, Math.ceil(Math.log2(steps / tile)));
  return Math.min(Math.max(Math.round(Math.log2(stepsPerPixel)), 0), coarsest);
}

/** Round distances of about `count` marks over a range. */
export function marks(from, to, count) {
  const rough = Math.max((to - from) / count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) found.push(at);
  return found;
}

const KEY = "p.expirespan_memory.view";

/** The view that a location's hash holds, or null. */
export function readHash(hash) {
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [name, value] = part.split("=");
    if (name !== KEY || !value) continue;
    try {
      const view = JSON.parse(decodeURIComponent(value));
      return view && Array.isArray(view.panes) ? view : null;
    } catch {
      return null;
    }
  }
  return null;
}

/** The hash of a link that opens the tab with this view. */
export function writeHash(view) {
  return `#expirespan_memory&${KEY}=${encodeURIComponent(JSON.stringify(view))}`;
}

const RAMPS = {
  light: { bar: ["#c3d3e6", "#4c78a8", "#12294a"], relevant: ["#f4c3a8", "#e45732", "#8f1d06"] },
  dark: { bar: ["#34495f", "#5f97d0", "#dcecff"], relevant: ["#7a4030", "#ef7d4f", "#ffd9b8"] },
};

/** 256 colours [r, g, b] of a ramp, dim for small values and strong for large ones. */
export function ramp(theme, kind) {
  const stops = RAMPS[theme][kind].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, shade) => {
    const at = (shade / 255) * 2;
    const low = Math.min(Math.floor(at), 1);
    return stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (at - low)));
  });
}

const LAYER_COLORS = { light: ["#2f6db3", "#b3541e", "#2f7d4f", "#7a4fa3"], dark: ["#7db4f0", "#f2a25c", "#74c99a", "#c3a0ea"] };
const LAYER_STROKES = [
  { name: "solid", dash: [], width: 3 },
  { name: "dashed", dash: [7, 5], width: 1.5 },
  { name: "dotted", dash: [2, 6], width: 1.5 },
];

/** Colour and stroke of a layer's curve: one drawn over another leaves it visible in its gaps. */
export function layerStyle(theme, number) {
  const stroke = LAYER_STROKES[number % LAYER_STROKES.length];
  return { color: LAYER_COLORS[theme][number % LAYER_COLORS[theme].length], ...stroke };
}

/** A number as one reads it. */
export function format(number) {
  if (number === null || Number.isNaN(number)) return "–";
  if (Number.isInteger(number)) return number.toLocaleString("en");
  return Math.abs(number) >= 1000 ? Math.round(number).toLocaleString("en") : number.toPrecision(3);
}
