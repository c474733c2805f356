// What stands in words beside a timeline: its marks, and its keys.

import { element } from "./details.js";
import { format, layerStyle } from "./view.js";

const KEYS = [
  { keys: ["←", "→"], what: "one step, with shift ten" },
  { keys: ["n", "p"], what: "next or previous relevant step", relevant: true },
  { keys: ["home", "end"], what: "first or last step" },
  { keys: ["+", "−"], what: "zoom, as the wheel does" },
  { keys: ["a", "d"], what: "pan, as dragging does" },
  { keys: ["page up", "page down"], what: "pan half a view" },
  { keys: ["0"], what: "whole episode" },
  { keys: ["esc"], what: "let go of the step that a click or a key holds" },
];

/** The keys in one sentence, for screen readers. */
export const KEYS_IN_WORDS = KEYS.map(({ keys, what }) => `${keys.join(", ")}: ${what}`).join("; ");

/** The keys of a timeline, those for relevant steps only where an episode has some. */
export function keyHelp(hasRelevant) {
  const known = KEYS.filter(({ relevant }) => !relevant || hasRelevant);
  const caps = (keys) => keys.map((key) => element("kbd", {}, key));
  return known.map(({ keys, what }) => element("span", { className: "entry" }, ...caps(keys), ` ${what}`));
}

/** The marks that an episode's timeline shows; `layers` are counted from 0. */
export function legend(about, layers, color, theme) {
  const entry = (mark, ...words) => element("span", { className: "entry" }, element("span", { className: `mark ${mark}` }), ...words);
  const ranges = layers.map((layer) => about.layers[layer][color]).filter(Boolean);
  const [low, high] = [Math.min(...ranges.map((range) => range[0])), Math.max(...ranges.map((range) => range[1]))];
  const [what, unit] = color === "span" ? ["predicted span", " steps"] : ["attention received", ""];
  const found = [element("span", { className: "entry" }, "bar: a memory, from the step that wrote it to the step that deleted it")];
  if (ranges.length) found.push(element("span", { className: "entry" }, `${what} ${format(low)} `, element("span", { className: "mark ramp" }), ` ${format(high)}${unit}`));
  if (about.relevant.length) {
    found.push(entry("ramp relevant", "memory of a relevant step: a later step needs its observation"));
    found.push(entry("tick", "relevant step"));
  }
  if (about.layers.some((layer) => layer.evictions)) found.push(entry("evicted", "evicted: the capacity pushed it out before it expired (zoom in)"));
  if (about.layers.some((layer) => layer.attention)) found.push(entry("frame", "attended to at the cursor's step, thicker for more"));
  if (about.rewards?.[1] > 0) found.push(entry("dot", about.has_labels ? "right answer" : "reward above 0"));
  if (about.rewards?.[0] < 0) found.push(entry("ring", "reward below 0"));
  if (about.has_events) found.push(entry("square", "event"));
  for (const layer of layers) found.push(curve(layer, theme));
  return found;
}

/** A layer's stroke beside its name. */
function curve(layer, theme) {
  const { name, color, width } = layerStyle(theme, layer);
  const mark = element("span", { className: "mark curve" });
  mark.style.borderTop = `${Math.max(width, 2)}px ${name} ${color}`;
  return element("span", { className: "entry" }, mark, `live memories of layer ${layer + 1}`);
}
