// What stands beside the timeline: the step under the cursor and the memories that the agent had then.

import { format } from "./view.js";

/** An element with attributes and children; text is only ever set as text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };

/** A token's text with signs for what can't be seen. */
const visible = (text) => (text.length > 1 ? text.trimEnd() : SIGNS[text] ?? text);

export class Details {
  constructor(box) {
    this.box = box;
    this.shown = null;
  }

  /** Show a step's answer of the server, with the pictures that have come (a Map from step to canvas). */
  show(step, layers, pictures, about) {
    const key = `${step.step}/${layers}/${pictures.size}`;
    if (this.shown === key) return;
    this.shown = key;
    this.box.replaceChildren(this.facts(step, about), ...(step.text ? [this.text(step)] : []), ...layers.map((layer) => this.layer(step, layer, pictures, about.has_frames)));
  }

  /** The token in the text around it, with whose relevance it is marked. */
  text({ text: [before, token, after], relevant }) {
    const mark = element("mark", { className: relevant ? "relevant" : "" }, token.length > 1 ? token : visible(token));
    return element("p", { className: "text" }, before, mark, element("span", { className: "later" }, after));
  }

  /** A memory's token; a single character after those before it, which alone says little. */
  token([before, token]) {
    const lead = token.length > 1 ? "" : [...before].map(visible).join("");
    return element("span", { className: "token" }, element("span", { className: "later" }, lead), element("b", {}, visible(token)));
  }

  facts(step, about) {
    const fact = (name, value) => element("span", { className: "fact" }, element("b", {}, name), ` ${value}`);
    const facts = element(
      "div",
      { className: "facts" },
      fact("step", step.step.toLocaleString("en")),
      ...(step.text ? [fact("token", visible(step.text[1])), fact("predicts", visible(step.action))] : [fact("action", step.action.replace(/^action /, ""))]),
      fact(about.value_name, format(step.value)),
      ...(step.text ? [] : [fact("reward", format(step.reward))]),
    );
    if (step.relevant) facts.append(element("span", { className: "fact relevant" }, "relevant: a later step needs this observation"));
    if (step.event) facts.append(fact("event", step.event));
    return facts;
  }

  layer(step, number, pictures, hasFrames) {
    const layer = step.layers[number];
    const more = layer.live - layer.memories.length;
    const title = element("h3", {}, `layer ${number + 1}: ${layer.live} live ${layer.live === 1 ? "memory" : "memories"}${more > 0 ? `, ${more} of them not listed` : ""}`);
    const list = element("ol", { className: "memories" });
    for (const memory of layer.memories) list.append(this.memory(step, memory, layer.attention, pictures, hasFrames));
    return element("section", {}, title, list);
  }

  memory(step, memory, attention, pictures, hasFrames) {
    const item = element("li", { className: memory.relevant ? "memory relevant" : "memory" });
    item.title =
      `written at step ${memory.written}, ${step.step - memory.written} steps ago; predicted span ${format(memory.span)}; ` +
      `gone at step ${memory.deleted} (${memory.fate})` + (attention ? `; share of attention ${memory.weight}` : "");
    const picture = pictures.get(memory.written);
    if (picture) {
      const copy = element("canvas", { width: picture.width, height: picture.height });
      copy.getContext("2d").drawImage(picture, 0, 0);
      item.append(copy);
    } else if (hasFrames) {
      item.append(element("span", { className: "blank" }));
    }
    if (memory.text) item.append(this.token(memory.text));
    item.append(element("span", {}, `step ${memory.written}`));
    if (attention) {
      const bar = element("span", { className: "weight" });
      bar.style.width = `${Math.round(100 * memory.weight)}%`;
      item.append(element("span", { className: "weights" }, bar));
    }
    return item;
  }
}
