// How the timeline of one episode is drawn on its canvas: lanes of memories for each layer, curves beneath, a cursor.
// Tiles of cells come from the server and are painted once; a frame only scales and places them.

import { paintCurves } from "./curves.js";
import { CURVE, GAP, LEFT, layerStyle, levelFor, marks, ramp } from "./view.js";

const RIGHT = 12;
const MARKS = 18;
const AXIS = 22;
const STARTS = 1;
const RELEVANT = 2;
const EVICTED = 4;

export class Picture {
  constructor(canvas) {
    Object.assign(this, { canvas, episode: null, layers: [], color: "span", theme: "light", frames: 0 });
    Object.assign(this, { window: { from: 0, to: 1 }, cursor: 0, pinned: false });
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
    this.evictedInk = style.getPropertyValue("--evicted").trim();
    this.rewardInk = style.getPropertyValue("--reward").trim();
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.fillStyle = this.ground;
    draw.fillRect(0, 0, width, height);
    draw.font = "12px system-ui, sans-serif";
    this.missing = 0;
    this.level = levelFor((this.window.to - this.window.from) / this.width, this.steps, this.episode.tile);
    const lanes = (height - MARKS - AXIS - 2 * (CURVE + GAP) - GAP * this.layers.length) / this.layers.length;
    this.boxes = this.layers.map((layer, i) => ({ layer, top: MARKS + i * (lanes + GAP), height: lanes }));
    for (const box of this.boxes) this.paintLayer(draw, box);
    paintCurves(this, draw, MARKS + this.layers.length * (lanes + GAP));
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
    this.nameLayer(draw, box, about.most_live);
    draw.strokeStyle = this.faint;
    draw.globalAlpha = 0.5;
    draw.strokeRect(LEFT + 0.5, box.top + 0.5, this.width - 1, box.height - 1);
    draw.globalAlpha = 1;
  }

  /** A layer's name beside its lanes, with the colour and the stroke of its curve beneath. */
  nameLayer(draw, box, mostLive) {
    const middle = box.top + box.height / 2;
    const { color, dash, width } = layerStyle(this.theme, box.layer);
    draw.textAlign = "right";
    draw.textBaseline = "middle";
    draw.fillStyle = color;
    draw.fillText(`layer ${box.layer + 1}`, LEFT - 8, middle - 8);
    draw.fillRect(LEFT - 4, box.top, 4, box.height);
    draw.fillStyle = this.faint;
    draw.fillText(`≤ ${mostLive} live`, LEFT - 8, middle + 8);
    Object.assign(draw, { strokeStyle: color, lineWidth: width });
    draw.setLineDash(dash);
    draw.beginPath();
    draw.moveTo(LEFT - 50, middle + 20);
    draw.lineTo(LEFT - 8, middle + 20);
    draw.stroke();
    draw.setLineDash([]);
    draw.lineWidth = 1;
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
              draw.fillStyle = this.evictedInk;
              draw.fillRect(this.x(step + 1) - 3, box.top + row * rowHeight, 3, rowHeight);
              draw.fillStyle = this.ground;
            }
          }
        }
      },
      () => {},
    );
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
