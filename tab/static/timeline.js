// The timeline of one episode: its window and cursor, moved by pointer and keys.

import { Picture } from "./picture.js";
import { clampWindow, zoomWindow } from "./view.js";

export class Timeline extends Picture {
  /** `moved` is called when the window or the cursor has changed. */
  constructor(canvas, moved) {
    super(canvas);
    this.moved = moved;
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
      if (this.episode) this.paint();
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
    canvas.addEventListener("keydown", (event) => this.takeKey(event));
    // Whoever points at a timeline means it with the next key.
    canvas.addEventListener("pointerenter", () => canvas.focus({ preventScroll: true }));
  }

  /** Do what a key means here; other keys stay the browser's. */
  takeKey(event) {
    if (!this.episode || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.press(event.key, event.shiftKey)) event.preventDefault();
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
}
