// What the page asks of the server, with what it has been told kept for a while.

/** Fetch an answer below the plugin's path; errors carry the server's message. */
async function ask(route, parameters) {
  const answer = await fetch(`./${route}?${new URLSearchParams(parameters)}`);
  if (answer.ok) return answer;
  let message = `${route}: ${answer.status}`;
  try {
    message = (await answer.json()).error ?? message;
  } catch {
    // Not from the plugin: the status says what there is to say.
  }
  throw new Error(message);
}

export async function fetchEpisodes() {
  return (await ask("episodes", {})).json();
}

/** A Map that forgets what was not used for longest. */
class Recent {
  constructor(most) {
    this.most = most;
    this.entries = new Map();
  }

  get(key) {
    const value = this.entries.get(key);
    if (value !== undefined) {
      this.entries.delete(key);
      this.entries.set(key, value);
    }
    return value;
  }

  set(key, value) {
    this.entries.set(key, value);
    if (this.entries.size > this.most) this.entries.delete(this.entries.keys().next().value);
  }
}

/** One recorded episode on the server. `changed` is called when something asked for has come, `failed` with errors. */
export class Episode {
  constructor(run, tag, tile, changed, failed) {
    Object.assign(this, { run, tag, tile, changed, failed });
    this.tiles = new Recent(400);
    this.steps = new Recent(500);
    this.frames = new Recent(1000);
    this.pending = new Set();
  }

  async open() {
    this.about = await (await this.ask("episode", {})).json();
    return this;
  }

  ask(route, parameters) {
    return ask(route, { run: this.run, tag: this.tag, ...parameters });
  }

  /** The bytes of a tile of a layer, or of curves where layer is null; null until they have come. */
  cells(layer, level, index, color) {
    const key = `${layer}/${level}/${index}/${color}`;
    const known = this.tiles.get(key);
    if (known !== undefined) return known;
    const place = { level, index };
    this.request(key, layer === null ? "series" : "tile", layer === null ? place : { ...place, layer, color }, async (answer) => {
      const bytes = await answer.arrayBuffer();
      this.tiles.set(key, layer === null ? new Float32Array(bytes) : { bytes: new Uint8Array(bytes), canvas: null });
    });
    return null;
  }

  /** The same, without asking for it. */
  known(layer, level, index, color) {
    return this.tiles.get(`${layer}/${level}/${index}/${color}`) ?? null;
  }

  /** What happened at a step; null until it has come. */
  step(step) {
    const known = this.steps.get(step);
    if (known !== undefined) return known;
    // One at a time: a cursor that is dragged along asks for many, and only the latest matters.
    this.wanted = step;
    this.request("step", "step", { step }, async (answer) => {
      this.steps.set(step, await answer.json());
      if (this.wanted !== step) setTimeout(() => this.step(this.wanted));
    });
    return null;
  }

  /** Pictures of these steps that have come, by step; asks for the others. */
  pictures(steps) {
    const found = new Map(steps.map((step) => [step, this.frames.get(step)]).filter(([, frame]) => frame));
    const missing = steps.filter((step) => !found.has(step)).slice(0, 64);
    if (missing.length && this.about.has_frames) {
      this.request("frames", "frames", { steps: missing.join(",") }, async (answer) => {
        const bytes = await answer.arrayBuffer();
        const [height, width] = new Int32Array(bytes.slice(0, 8));
        const pixels = new Uint8Array(bytes, 8);
        missing.forEach((step, i) => this.frames.set(step, picture(pixels, i, height, width)));
      });
    }
    return found;
  }

  async request(key, route, parameters, take) {
    if (this.pending.has(key)) return;
    this.pending.add(key);
    try {
      await take(await this.ask(route, parameters));
      this.pending.delete(key);
      this.changed();
    } catch (error) {
      // A key that failed stays pending, so that drawing does not ask again and again.
      if (key === "step" || key === "frames") setTimeout(() => this.pending.delete(key), 2000);
      this.failed(error);
    }
  }
}

function picture(pixels, number, height, width) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  const start = number * height * width * 3;
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) image.data[4 * i + channel] = pixels[start + 3 * i + channel];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
