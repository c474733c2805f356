// One episode: what is shown of it, its timeline, and the step under the cursor.

import { Episode } from "./data.js";
import { Details, element } from "./details.js";
import { Timeline } from "./timeline.js";
import { format } from "./view.js";

const HELP =
  "wheel: zoom · drag or shift + wheel: pan · click: hold the cursor · ← → (shift: ten): step · " +
  "+ −: zoom · a d, page keys: pan · 0: all · n p: next or last relevant step · esc: let go";

export class Pane {
  /** `changed(pane, what)` is called when what is shown has changed: by a "choice", a "window", or in "place". */
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.listings = [];
    this.token = 0;
    this.run = this.select("run", () => this.fillSteps());
    this.step = this.select("training step", () => this.fillNames());
    this.name = this.select("episode", () => this.open());
    this.layer = this.select("layer", () => this.redraw());
    this.color = this.select("colour", () => this.redraw());
    this.summary = element("p", { className: "summary" });
    this.canvas = element("canvas", { className: "timeline", tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Timeline of the memories of an episode. Keys: ${HELP}`);
    this.below = element("div", { className: "details" });
    const choices = [this.run, this.step, this.name, this.layer, this.color].map((choice) => choice.parentElement);
    this.box = element("section", { className: "pane" }, element("div", { className: "choices" }, ...choices), this.summary);
    this.box.append(this.canvas, element("p", { className: "help" }, HELP), this.below);
    this.details = new Details(this.below);
    this.timeline = new Timeline(this.canvas, () => {
      this.tell();
      this.changed(this, "window");
    });
  }

  select(name, choose) {
    const made = element("select", { name });
    made.addEventListener("change", () => {
      choose();
      this.changed(this, "choice");
    });
    element("label", {}, `${name} `, made);
    return made;
  }

  /** Offer these episodes; keeps what is chosen where it is still there. */
  offer(listings, tile) {
    this.tile = tile;
    this.listings = listings;
    const before = this.tag;
    fill(this.run, unique(listings.map((listing) => listing.run)), this.run.value);
    this.fillSteps(before === undefined);
  }

  /** Show what a link asked for, if it is there. */
  restore(view) {
    const listing = view && this.listings.find((known) => known.run === view.run && known.tag === view.tag);
    if (!listing) return;
    this.wanted = view;
    this.run.value = listing.run;
    this.fillSteps(false, false);
    this.step.value = String(listing.step);
    this.fillNames(false);
    this.name.value = listing.name;
    this.open();
  }

  /** What a link must hold to show the same. */
  get view() {
    const { window, cursor, pinned } = this.timeline;
    const place = { run: this.run.value, tag: this.tag, layer: this.layer.value, color: this.color.value };
    return { ...place, from: Math.round(window.from), to: Math.round(window.to), at: cursor, pinned };
  }

  fillSteps(latest = true, open = true) {
    const steps = unique(this.listings.filter((listing) => listing.run === this.run.value).map((listing) => String(listing.step)));
    steps.sort((a, b) => a - b);
    fill(this.step, steps, latest ? steps.at(-1) : this.step.value, (step) => Number(step).toLocaleString("en"));
    this.fillNames(open);
  }

  fillNames(open = true) {
    const here = this.listings.filter((listing) => listing.run === this.run.value && String(listing.step) === this.step.value);
    fill(this.name, unique(here.map((listing) => listing.name)), this.name.value);
    if (open) this.open();
  }

  get listing() {
    return this.listings.find(
      (known) => known.run === this.run.value && String(known.step) === this.step.value && known.name === this.name.value,
    );
  }

  /** Read the chosen episode, unless it is shown already. */
  async open() {
    const listing = this.listing;
    if (!listing || (this.tag === listing.tag && this.shownRun === listing.run && !this.broken)) return;
    Object.assign(this, { tag: listing.tag, shownRun: listing.run, broken: false });
    const token = ++this.token;
    this.box.setAttribute("aria-busy", "true");
    try {
      const episode = await new Episode(listing.run, listing.tag, this.tile, () => this.arrived(), this.failed).open();
      if (token === this.token) this.begin(episode, listing);
    } catch (error) {
      if (token !== this.token) return;
      this.broken = true; // to be tried again with the next list of episodes
      this.timeline.episode = null;
      this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
      this.below.replaceChildren();
      this.summary.textContent = `This episode can't be shown: ${error.message}`;
    }
    this.box.removeAttribute("aria-busy");
  }

  begin(episode, listing) {
    const about = episode.about;
    const layers = about.layers.map((_, number) => String(number + 1));
    fill(this.layer, ["all", ...layers], this.layer.value || "all");
    const colors = about.layers.every((layer) => layer.attention) ? ["span", "attention"] : ["span"];
    fill(this.color, colors, this.color.value, (color) => (color === "span" ? "predicted span" : "attention received"));
    this.timeline.episode = episode;
    const view = this.wanted;
    if (view) {
      if (["all", ...layers].includes(view.layer)) this.layer.value = view.layer;
      if (colors.includes(view.color)) this.color.value = view.color;
      this.wanted = null;
    }
    const whole = { from: 0, to: about.steps };
    const asked = { from: Number(view?.from) || 0, to: Number(view?.to) || 0 };
    this.timeline.setWindow(asked.to > asked.from ? asked : whole, false);
    this.timeline.pinned = Boolean(view?.pinned);
    this.timeline.setCursor(Number(view?.at) || 0, false);
    this.details.shown = null;
    this.redraw();
    this.changed(this, "place");
  }

  redraw() {
    const episode = this.timeline.episode;
    if (!episode) return;
    const about = episode.about;
    const layers = this.layer.value === "all" ? about.layers.map((_, number) => number) : [Number(this.layer.value) - 1];
    this.timeline.show(episode, layers, this.color.value || "span");
    const ranges = layers.map((number) => about.layers[number][this.timeline.color]).filter(Boolean);
    const [low, high] = [Math.min(...ranges.map((range) => range[0])), Math.max(...ranges.map((range) => range[1]))];
    const evictions = about.layers.reduce((sum, layer) => sum + layer.evictions, 0);
    this.summary.replaceChildren(
      `${format(about.steps)} steps, return ${format(about.total_reward)}${about.episode_end ? `, ${about.episode_end}` : ""}, ` +
        `${format(about.relevant_total)} relevant, ${format(evictions)} evictions · ${this.color.value} ${format(low)} `,
      element("span", { className: "legend" }),
      ` ${format(high)} · `,
      element("span", { className: "key" }, "relevant ", element("span", { className: "legend relevant" })),
    );
    this.tell();
  }

  /** Something asked for has come. */
  arrived() {
    this.timeline.draw();
    this.tell();
  }

  /** The step under the cursor in words. */
  tell() {
    const { episode, cursor, layers } = this.timeline;
    if (!episode) return;
    const step = episode.step(cursor);
    if (!step) return;
    const wanted = unique(layers.flatMap((layer) => step.layers[layer].memories.map((memory) => memory.written)));
    this.details.show(step, layers, episode.pictures(wanted), episode.about.has_frames);
  }
}

const unique = (values) => [...new Set(values)];

function fill(select, values, chosen, label = (value) => value) {
  const same = select.options.length === values.length && values.every((value, i) => select.options[i].value === value);
  if (!same) select.replaceChildren(...values.map((value) => element("option", { value }, label(value))));
  if (values.includes(chosen)) select.value = chosen;
}
