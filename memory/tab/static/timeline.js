// The timeline of one episode on a canvas: lanes of memories for each layer, curves beneath, a cursor.
// Tiles of cells come from the server and are painted once; a frame only scales and places them.

import { clampWindow, format, levelFor, marks, ramp, zoomWindow } from "./view.js";

const LEFT = 64;
const RIGHT = 12;
const MARKS = 18;
const AXIS = 22;
const CURVE = 46;
const GAP = 8;
const STARTS = 1;
const RELEVANT = 2;
const EVICTED = 4;
const LAYER_COLORS = { light: ["#2f6db3", "#b3541e", "#2f7d4f", "#7a4fa3"], dark: ["#7db4f0", "#f2a25c", "#74c99a", "#c3a0ea"] };

export class Timeline {
  /** `moved` is called when the window or the cursor has changed. */
  constructor(canvas, moved) {
    Object.assign(this, { canvas, moved, episode: null, layers: [], color: "span", theme: "light" });
    this.window = { from: 0, to: 1 };
    this.cursor = 0;
    this.pinned = false;
    this.frames = 0;
    this.scheduled = false;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(episode, layers, color) {
    Object.assign(this, { episode, layers, color });
    this.draw();
  }

  get steps() {
    return this.episode.about.steps;
  }

  setWindow(window, tell = true) {
    this.window = clampWindow(window, this.steps);
    this.draw();
    if (tell) this.moved();
  }

  setCursor(step, tell = true) {
    this.cursor = Math.min(Math.max(Math.floor(step), 0), this.steps - 1);
    this.draw();
    if (tell) this.moved();
  }

  /** Draw with the next frame of the screen. */
  draw() {
    if (this.scheduled || !this.episode) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.paint();
    });
  }

  listen() {
    const canvas = this.canvas;
    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      grip = { x: event.offsetX, window: this.window, dragged: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.episode) return;
      if (grip) {
        const shift = ((grip.x - event.offsetX) * (grip.window.to - grip.window.from)) / this.width;
        grip.dragged ||= Math.abs(grip.x - event.offsetX) > 3;
        if (grip.dragged) this.setWindow({ from: grip.window.from + shift, to: grip.window.to + shift });
      } else if (!this.pinned) {
        this.setCursor(this.stepAt(event.offsetX));
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      if (this.episode && grip && !grip.dragged) {
        this.pinned = !this.pinned;
        this.setCursor(this.stepAt(event.offsetX));
      }
      grip = null;
    });
    canvas.addEventListener("pointercancel", () => (grip = null));
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.episode) return;
        event.preventDefault();
        const width = this.window.to - this.window.from;
        if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
          const shift = ((event.deltaX || event.deltaY) * width) / this.width;
          this.setWindow({ from: this.window.from + shift, to: this.window.to + shift });
        } else {
          const factor = Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.002);
          this.setWindow(zoomWindow(this.window, factor, this.stepAt(event.offsetX), this.steps));
        }
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      if (!this.episode || event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.press(event.key, event.shiftKey)) event.preventDefault();
    });
  }

  /** What a key does; false where it is none of the timeline's. */
  press(key, shift) {
    const width = this.window.to - this.window.from;
    const pan = (share) => this.setWindow({ from: this.window.from + share * width, to: this.window.to + share * width });
    const zoom = (factor) => this.setWindow(zoomWindow(this.window, factor, this.cursor + 0.5, this.steps));
    const relevant = this.episode.about.relevant;
    const actions = {
      ArrowLeft: () => this.walk(shift ? -10 : -1),
      ArrowRight: () => this.walk(shift ? 10 : 1),
      PageUp: () => pan(-0.5),
      PageDown: () => pan(0.5),
      a: () => pan(-0.1),
      d: () => pan(0.1),
      "+": () => zoom(0.7),
      "=": () => zoom(0.7),
      "-": () => zoom(1 / 0.7),
      0: () => this.setWindow({ from: 0, to: this.steps }),
      Home: () => this.walk(-this.cursor),
      End: () => this.walk(this.steps),
      n: () => this.walk((relevant.find((step) => step > this.cursor) ?? this.cursor) - this.cursor),
      p: () => this.walk((relevant.findLast((step) => step < this.cursor) ?? this.cursor) - this.cursor),
      Escape: () => this.setCursor(this.cursor, (this.pinned = false) || true),
    };
    if (!actions[key]) return false;
    actions[key]();
    return true;
  }

  /** Move the cursor, hold it there, and keep it in view. */
  walk(by) {
    this.pinned = true;
    this.setCursor(this.cursor + by);
    const { from, to } = this.window;
    if (this.cursor < from || this.cursor >= to - 1) {
      const start = this.cursor - (to - from) / 2;
      this.setWindow({ from: start, to: start + to - from });
    }
  }

  get width() {
    return Math.max(this.canvas.clientWidth - LEFT - RIGHT, 1);
  }

  x(step) {
    return LEFT + ((step - this.window.from) / (this.window.to - this.window.from)) * this.width;
  }

  stepAt(x) {
    return this.window.from + ((x - LEFT) / this.width) * (this.window.to - this.window.from);
  }

  paint() {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const draw = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    this.ink = style.getPropertyValue("--ink").trim();
    this.faint = style.getPropertyValue("--faint").trim();
    this.ground = style.getPropertyValue("--panel").trim();
    this.relevantInk = style.getPropertyValue("--relevant").trim();
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.fillStyle = this.ground;
    draw.fillRect(0, 0, width, height);
    draw.font = "12px system-ui, sans-serif";
    this.missing = 0;
    this.level = levelFor((this.window.to - this.window.from) / this.width, this.steps, this.episode.tile);
    const lanes = (height - MARKS - AXIS - 2 * (CURVE + GAP) - GAP * this.layers.length) / this.layers.length;
    this.boxes = this.layers.map((layer, i) => ({ layer, top: MARKS + i * (lanes + GAP), height: lanes }));
    for (const box of this.boxes) this.paintLayer(draw, box);
    this.paintCurves(draw, MARKS + this.layers.length * (lanes + GAP));
    this.paintAxis(draw, height - AXIS);
    this.paintCursor(draw, height - AXIS);
    this.report();
  }

  /** What was drawn, as attributes of the canvas: tests and benchmarks read them. */
  report() {
    const data = this.canvas.dataset;
    if (this.missing === 0 && !data.drawn) data.drawn = performance.now();
    Object.assign(data, { from: this.window.from, to: this.window.to, cursor: this.cursor, missing: this.missing, frames: ++this.frames });
  }

  /** The tiles in view, and one beside them on either side so that panning finds them there. */
  eachTile(visit, fetchMore) {
    const span = this.episode.tile * 2 ** this.level;
    const [first, last] = [Math.floor(this.window.from / span), Math.floor((this.window.to - 1e-6) / span)];
    const most = Math.floor((this.steps - 1) / span);
    for (let index = first; index <= Math.min(last, most); index++) visit(index, index * span, span);
    for (const index of [first - 1, last + 1]) if (index >= 0 && index <= most) fetchMore(index);
  }

  paintLayer(draw, box) {
    const about = this.episode.about.layers[box.layer];
    draw.save();
    draw.beginPath();
    draw.rect(LEFT, box.top, this.width, box.height);
    draw.clip();
    const rowHeight = box.height / about.rows;
    draw.imageSmoothingEnabled = rowHeight < 1;
    this.eachTile(
      (index, from, span) => {
        const tile = this.episode.cells(box.layer, this.level, index, this.color);
        if (tile) this.place(draw, box, tile, about.rows, from, span, 0, this.episode.tile);
        else {
          this.missing++;
          this.placeCoarser(draw, box, about.rows, from, span);
        }
      },
      (index) => this.episode.cells(box.layer, this.level, index, this.color),
    );
    this.paintRules(draw, box, about, rowHeight);
    draw.restore();
    draw.fillStyle = this.ink;
    draw.textAlign = "right";
    draw.textBaseline = "middle";
    draw.fillText(`layer ${box.layer + 1}`, LEFT - 8, box.top + box.height / 2 - 8);
    draw.fillStyle = this.faint;
    draw.fillText(`≤ ${about.most_live}`, LEFT - 8, box.top + box.height / 2 + 8);
    draw.strokeStyle = this.faint;
    draw.globalAlpha = 0.5;
    draw.strokeRect(LEFT + 0.5, box.top + 0.5, this.width - 1, box.height - 1);
    draw.globalAlpha = 1;
  }

  /** A tile, or some of its columns, where its steps are on the canvas. */
  place(draw, box, tile, rows, from, span, column, columns) {
    if (!tile.canvas || tile.theme !== this.theme) Object.assign(tile, { canvas: this.painted(tile.bytes, rows), theme: this.theme });
    const [left, right] = [this.x(from), this.x(from + span)];
    draw.drawImage(tile.canvas, column, 0, columns, rows, left, box.top, right - left, box.height);
  }

  placeCoarser(draw, box, rows, from, span) {
    for (let level = this.level + 1; level < this.level + 6; level++) {
      const wide = this.episode.tile * 2 ** level;
      const index = Math.floor(from / wide);
      const tile = this.episode.known(box.layer, level, index, this.color);
      if (!tile) continue;
      this.place(draw, box, tile, rows, from, span, (from - index * wide) / 2 ** level, span / 2 ** level);
      return;
    }
  }

  painted(bytes, rows) {
    const columns = this.episode.tile;
    const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
    const image = new ImageData(columns, rows);
    const [bar, relevant] = [ramp(this.theme, "bar"), ramp(this.theme, "relevant")];
    const cells = rows * columns;
    for (let i = 0; i < cells; i++) {
      const coverage = bytes[cells + i];
      if (!coverage) continue;
      const color = (bytes[2 * cells + i] & RELEVANT ? relevant : bar)[bytes[i]];
      image.data[4 * i] = color[0];
      image.data[4 * i + 1] = color[1];
      image.data[4 * i + 2] = color[2];
      // Thin memories must not vanish when many steps share a pixel.
      image.data[4 * i + 3] = 70 + coverage * (185 / 255);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /** Lines between lanes, and where memories begin and are evicted, as far as there is room for them. */
  paintRules(draw, box, about, rowHeight) {
    draw.fillStyle = this.ground;
    if (rowHeight >= 4) {
      for (let row = 1; row < about.rows; row++) draw.fillRect(LEFT, box.top + row * rowHeight - 0.5, this.width, 1);
    }
    const perStep = this.width / (this.window.to - this.window.from);
    if (this.level > 0 || perStep < 3 || rowHeight < 3) return;
    const [first, last] = [Math.floor(this.window.from), Math.ceil(this.window.to)];
    this.eachTile(
      (index, from, span) => {
        const tile = this.episode.known(box.layer, 0, index, this.color);
        if (!tile) return;
        for (let row = 0; row < about.rows; row++) {
          const start = (2 * about.rows + row) * span;
          for (let step = Math.max(first, from); step < Math.min(last, from + span); step++) {
            const flags = tile.bytes[start + step - from];
            if (flags & STARTS) draw.fillRect(this.x(step) - 0.5, box.top + row * rowHeight, 1, rowHeight);
            if (flags & EVICTED) {
              draw.fillStyle = this.relevantInk;
              draw.fillRect(this.x(step + 1) - 2, box.top + row * rowHeight, 2, rowHeight);
              draw.fillStyle = this.ground;
            }
          }
        }
      },
      () => {},
    );
  }

  /** Marks of relevant steps, rewards and events above; live memories and value below. */
  paintCurves(draw, top) {
    const layers = this.episode.about.layers;
    const most = Math.max(...layers.map((layer) => layer.most_live));
    const [low, high] = this.episode.about.value_range ?? [0, 1];
    const room = { low, span: Math.max(high - low, 1e-6) };
    const columns = this.episode.tile;
    const wide = 2 ** this.level;
    const lines = layers.map(() => []);
    const value = [];
    draw.save();
    draw.beginPath();
    draw.rect(LEFT, 0, this.width, this.canvas.clientHeight);
    draw.clip();
    this.eachTile(
      (index, from) => {
        const curves = this.episode.cells(null, this.level, index, "");
        if (!curves) {
          this.missing++;
          return;
        }
        const row = (number, column) => curves[number * columns + column];
        const start = Math.max(0, Math.floor((this.window.from - from) / wide) - 1);
        const stop = Math.min(columns, Math.ceil((this.window.to - from) / wide) + 1);
        for (let column = start; column < stop; column++) {
          if (Number.isNaN(row(0, column))) break;
          const x = this.x(from + (column + 0.5) * wide);
          layers.forEach((_, number) => lines[number].push(x, row(number, column)));
          value.push(x, row(layers.length, column));
          this.paintMarks(draw, x, (wide / (this.window.to - this.window.from)) * this.width, layers.length, row, column);
        }
      },
      (index) => this.episode.cells(null, this.level, index, ""),
    );
    const colors = LAYER_COLORS[this.theme];
    const [live, worth] = [top, top + CURVE + GAP];
    this.layers.forEach((number) => this.line(draw, lines[number], colors[number % 4], (v) => live + CURVE - (v / most) * (CURVE - 3)));
    this.line(draw, value, this.ink, (v) => worth + CURVE - 2 - ((v - room.low) / room.span) * (CURVE - 4));
    draw.restore();
    this.caption(draw, "live", `${most}`, "0", live);
    this.caption(draw, "value", format(high), format(low), worth);
  }

  paintMarks(draw, x, width, first, row, column) {
    const wide = Math.max(width, 2);
    if (row(first + 2, column) > 0) {
      draw.fillStyle = this.relevantInk;
      draw.fillRect(x - wide / 2, 2, wide, 6);
    }
    const reward = row(first + 1, column);
    if (reward || row(first + 3, column) > 0) {
      draw.fillStyle = reward > 0 ? this.positive() : reward < 0 ? this.relevantInk : this.faint;
      draw.beginPath();
      draw.arc(x, 13, 3, 0, 7);
      draw.fill();
    }
  }

  positive() {
    return LAYER_COLORS[this.theme][2];
  }

  line(draw, points, color, height) {
    draw.strokeStyle = color;
    draw.lineWidth = 1.5;
    draw.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      if (!Number.isNaN(points[i + 1])) draw.lineTo(points[i], height(points[i + 1]));
    }
    draw.stroke();
    draw.lineWidth = 1;
  }

  caption(draw, name, high, low, top) {
    draw.textAlign = "right";
    draw.textBaseline = "middle";
    draw.fillStyle = this.ink;
    draw.fillText(name, LEFT - 8, top + CURVE / 2);
    draw.fillStyle = this.faint;
    draw.fillText(high, LEFT - 8, top + 5);
    draw.fillText(low, LEFT - 8, top + CURVE - 4);
    draw.fillRect(LEFT, top + CURVE, this.width, 0.5);
  }

  paintAxis(draw, top) {
    draw.fillStyle = this.ink;
    draw.textAlign = "center";
    draw.textBaseline = "top";
    for (const step of marks(this.window.from, this.window.to, this.width / 90)) {
      draw.fillRect(this.x(step), top, 1, 4);
      draw.fillText(step.toLocaleString("en"), this.x(step), top + 6);
    }
  }

  /** The step under the cursor, and in each lane what it attends to: the stronger, the thicker the frame. */
  paintCursor(draw, bottom) {
    const [left, right] = [this.x(this.cursor), this.x(this.cursor + 1)];
    if (right < LEFT || left > LEFT + this.width) return;
    draw.save();
    draw.beginPath();
    draw.rect(LEFT, 0, this.width, bottom);
    draw.clip();
    const step = this.episode.step(this.cursor);
    draw.strokeStyle = this.ink;
    for (const box of step ? this.boxes : []) {
      const rowHeight = box.height / this.episode.about.layers[box.layer].rows;
      for (const memory of step.layers[box.layer].memories) {
        if (memory.weight < 0.02) continue;
        draw.lineWidth = 0.5 + 2.5 * memory.weight;
        const x = Math.max(this.x(memory.written), LEFT - 9);
        draw.strokeRect(x, box.top + memory.row * rowHeight, Math.max(right - x, 2), Math.max(rowHeight, 2));
      }
    }
    draw.lineWidth = 1;
    draw.globalAlpha = 0.16;
    draw.fillStyle = this.ink;
    draw.fillRect(left, 0, Math.max(right - left, 1), bottom);
    draw.globalAlpha = 1;
    draw.fillRect(left, 0, this.pinned ? 2 : 1, bottom);
    draw.restore();
  }
}
