// The Memory tab: one pane, or two to compare, the link that restores them, and the theme.

import { fetchEpisodes } from "./data.js";
import { element } from "./details.js";
import { Pane } from "./pane.js";
import { readHash, writeHash } from "./view.js";

const EVERY = 15000;
const ADVICE = [
  "No recorded episodes in this log directory yet. This tab shows them within half a minute of being written.",
  "Command line: expirespan-train records an episode every --timeline-every steps, expirespan-train-sequence tokens every --timeline-every updates; expirespan-evaluate RUN --record 3 --attention records three of a finished run.",
  "Python: from expirespan import MemoryPPO, RecordEpisodes; MemoryPPO(..., tensorboard_log=\"runs\") and model.learn(..., callback=RecordEpisodes(eval_env, every=50_000)).",
];

/** TensorBoard's own window, whose address a link restores; this frame where there is none or it is out of reach. */
function outer() {
  try {
    return window.parent.location.hash === undefined ? window : window.parent;
  } catch {
    return window;
  }
}

class Tab {
  constructor() {
    this.outer = outer();
    this.panes = [];
    // Until somebody chooses something, the latest recording is shown and the address left alone.
    this.touched = false;
    this.messages = element("div", { className: "messages" });
    this.messages.setAttribute("role", "status");
    this.compare = this.toggle("compare", () => this.setPanes(this.compare.checked ? 2 : 1));
    this.linked = this.toggle("same steps in both", () => this.follow(this.panes[0], "window"));
    this.linked.checked = true;
    this.copy = element("button", { type: "button", textContent: "copy link" });
    this.copy.addEventListener("click", () => this.copyLink());
    this.bar = element("header", {}, element("h1", {}, "Memory"), this.compare.parentElement, this.linked.parentElement, this.copy);
    this.body = element("main", {});
    document.body.replaceChildren(this.bar, this.messages, this.body);
    this.watchTheme();
    this.outer.addEventListener("hashchange", () => this.restore());
    document.addEventListener("keydown", (event) => {
      if (!event.target.closest("input, select, canvas")) this.panes[0].timeline.takeKey(event);
    });
    // TensorBoard shows a tab by showing its frame: at first, and each time that one returns to it.
    new IntersectionObserver((seen) => seen.at(-1).isIntersecting && this.takeFocus()).observe(this.body);
    setInterval(() => document.visibilityState === "visible" && this.reload(), EVERY);
  }

  toggle(name, choose) {
    const box = element("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      this.touched = true;
      choose();
      this.remember();
    });
    element("label", {}, box, ` ${name}`);
    return box;
  }

  /** Let keys reach the first timeline without a click, unless somebody is typing or choosing elsewhere. */
  takeFocus() {
    const busy = ({ activeElement }) => activeElement?.matches("input, select, textarea");
    if (busy(document) || (this.outer !== window && busy(this.outer.document))) return;
    window.focus();
    this.panes[0]?.canvas.focus({ preventScroll: true });
  }

  async start() {
    this.setPanes(1);
    this.wanted = readHash(this.outer.location.hash);
    await this.reload();
  }

  /** Ask for the list of episodes; new ones appear in the choices. */
  async reload() {
    let found;
    try {
      found = await fetchEpisodes();
    } catch (error) {
      this.say([error.message]);
      return;
    }
    const first = !this.episodes?.length;
    Object.assign(this, { episodes: found.episodes, tile: found.tile });
    this.say([...(found.episodes.length ? [] : ADVICE), ...found.messages]);
    this.body.hidden = !found.episodes.length;
    if (this.wanted && (first || this.holds(this.wanted))) this.restoreView(this.wanted);
    else for (const pane of this.panes) pane.offer(this.episodes, this.tile, !this.touched);
  }

  /** Whether all episodes of a view have been loaded; TensorBoard reads runs one after another. */
  holds(view) {
    return view.panes.every((asked) => this.episodes.some((known) => known.source === asked.run && known.tag === asked.tag));
  }

  say(messages) {
    this.messages.replaceChildren(...messages.map((message) => element("p", {}, message)));
  }

  setPanes(count) {
    while (this.panes.length > count) this.panes.pop().box.remove();
    while (this.panes.length < count) {
      const pane = new Pane((changed, what) => this.follow(changed, what), (error) => this.say([error.message]));
      pane.timeline.theme = this.theme;
      this.panes.push(pane);
      this.body.append(pane.box);
      if (this.episodes?.length) this.beginPane(pane);
    }
    this.body.classList.toggle("two", count > 1);
    this.compare.checked = count > 1;
    this.linked.parentElement.hidden = count < 2;
  }

  /** A second pane begins with another episode than the first: an earlier training step, or the next run. */
  beginPane(pane) {
    const shown = this.panes[0].listing;
    const others = this.episodes.filter((listing) => listing !== shown);
    const earlier = others.filter((listing) => listing.run === shown?.run && listing.step !== shown.step);
    const other = earlier[0] ?? others[0];
    pane.offer(this.episodes, this.tile, false);
    if (pane === this.panes[0] || !shown || !other) return;
    const { from, to, at, pinned, layer, color } = this.panes[0].view;
    const steps = this.linked.checked ? { from, to, at, pinned } : {};
    pane.restore({ run: other.source, tag: other.tag, layer, color, ...steps });
  }

  /** Something changed in a pane: the other one follows, and the address too. */
  follow(pane, what) {
    if (what === "choice" || what === "window") Object.assign(this, { wanted: null, touched: true });
    if (what === "window" && this.linked.checked && this.panes.length > 1) {
      for (const other of this.panes) {
        if (other === pane || !other.timeline.episode) continue;
        other.timeline.setWindow(pane.timeline.window, false);
        other.timeline.setCursor(pane.timeline.cursor, false);
        other.timeline.pinned = pane.timeline.pinned;
        other.tell();
      }
    }
    this.remember();
  }

  get view() {
    return { panes: this.panes.map((pane) => pane.view), linked: this.linked.checked };
  }

  /** Put the view into the address, where TensorBoard shows this tab and a moment has passed. */
  remember() {
    clearTimeout(this.timer);
    // A link whose episodes are still to come stays as it is, until something else is looked at.
    if (this.wanted || !this.touched) return;
    this.timer = setTimeout(() => {
      const { location, history } = this.outer;
      if (this.outer !== window && !location.hash.startsWith("#expirespan_memory")) return;
      this.hash = writeHash(this.view);
      // The whole path: TensorBoard gives the tab's own page another base.
      history.replaceState(history.state, "", location.pathname + location.search + this.hash);
    }, 300);
  }

  restore() {
    const { hash } = this.outer.location;
    const view = readHash(hash);
    if (view && hash !== this.hash) this.restoreView(view);
  }

  restoreView(view) {
    this.wanted = this.holds(view) ? null : view;
    this.touched ||= !this.wanted;
    this.setPanes(Math.min(Math.max(view.panes.length, 1), 2));
    this.linked.checked = view.linked !== false;
    this.panes.forEach((pane, number) => {
      pane.offer(this.episodes, this.tile, !this.touched);
      pane.restore(view.panes[number]);
    });
  }

  async copyLink() {
    const { origin, pathname, search } = this.outer.location;
    const link = origin + pathname + search + writeHash(this.view);
    try {
      await navigator.clipboard.writeText(link);
      this.copy.textContent = "copied";
      setTimeout(() => (this.copy.textContent = "copy link"), 1500);
    } catch {
      // Without a secure origin there is no clipboard: show the link to be copied by hand.
      const field = element("input", { value: link, readOnly: true, className: "link" });
      this.messages.replaceChildren(field);
      field.select();
    }
  }

  /** TensorBoard's own choice of theme, the system's where the page stands alone. */
  watchTheme() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const choose = () => {
      const dark = this.outer === window ? system.matches : this.outer.document.body.classList.contains("dark-mode");
      this.theme = dark ? "dark" : "light";
      document.documentElement.dataset.theme = this.theme;
      for (const pane of this.panes) {
        pane.timeline.theme = this.theme;
        pane.redraw();
      }
    };
    system.addEventListener("change", choose);
    if (this.outer !== window) new MutationObserver(choose).observe(this.outer.document.body, { attributes: true });
    choose();
  }
}

/** Called by TensorBoard once this module has been loaded into the tab's frame. */
export async function render() {
  const style = element("link", { rel: "stylesheet", href: "./style.css" });
  await new Promise((done) => {
    style.addEventListener("load", done);
    style.addEventListener("error", done);
    document.head.append(style);
  });
  document.documentElement.lang = "en";
  await new Tab().start();
}
