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

export class Details {
  constructor(box) {
    this.box = box;
    this.shown = null;
  }

  /** Show a step's answer of the server, with the pictures that have come (a Map from step to canvas). */
  show(step, layers, pictures, hasFrames) {
    const key = `${step.step}/${layers}/${pictures.size}`;
    if (this.shown === key) return;
    this.shown = key;
    this.box.replaceChildren(this.facts(step), ...layers.map((layer) => this.layer(step, layer, pictures, hasFrames)));
  }

  facts(step) {
    const fact = (name, value) => element("span", { className: "fact" }, element("b", {}, name), ` ${value}`);
    const facts = element(
      "div",
      { className: "facts" },
      fact("step", step.step.toLocaleString("en")),
      fact("action", step.action.replace(/^action /, "")),
      fact("value", format(step.value)),
      fact("reward", format(step.reward)),
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
    item.append(element("span", {}, `step ${memory.written}`));
    if (attention) {
      const bar = element("span", { className: "weight" });
      bar.style.width = `${Math.round(100 * memory.weight)}%`;
      item.append(element("span", { className: "weights" }, bar));
    }
    return item;
  }
}
