// One episode: what is shown of it, its timeline, and the step under the cursor.

import { Episode } from "./data.js";
import { Details, element } from "./details.js";
import { Timeline } from "./timeline.js";
import { KEYS_IN_WORDS, keyHelp, legend } from "./legend.js";
import { format } from "./view.js";

export class Pane {
  /** `changed(pane, what)` is called when what is shown has changed: by a "choice", a "window", or in "place". */
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.listings = [];
    this.token = 0;
    this.run = this.select("run", () => this.choose(latest(this.listings.filter((known) => known.run === this.run.value))));
    this.step = this.select("training step", () => this.choose(this.sameNameAt(this.step.value)));
    this.name = this.select("episode", () => this.choose(this.listings.find((known) => idOf(known) === this.name.value)));
    this.layer = this.select("layer", () => this.redraw());
    this.color = this.select("colour", () => this.redraw());
    this.summary = element("p", { className: "summary" });
    this.canvas = element("canvas", { className: "timeline", tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Timeline of the memories of an episode. Keys: ${KEYS_IN_WORDS}`);
    this.legend = element("p", { className: "legend" });
    this.help = element("p", { className: "help" });
    this.below = element("div", { className: "details" });
    const choices = [this.run, this.step, this.name, this.layer, this.color].map((choice) => choice.parentElement);
    this.box = element("section", { className: "pane" }, element("div", { className: "choices" }, ...choices), this.summary);
    this.box.append(this.legend, this.canvas, this.help, this.below);
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

  /** Offer these episodes; `follow` chooses the latest of them, otherwise what is chosen stays. */
  offer(listings, tile, follow) {
    this.tile = tile;
    this.listings = listings;
    this.choose((!follow && this.listing) || firstShown(listings));
  }

  /** Show what a link asked for, if it is there. */
  restore(view) {
    const listing = view && this.listings.find((known) => known.source === view.run && known.tag === view.tag);
    if (!listing) return;
    this.wanted = view;
    this.chosen = this.shown = undefined;
    this.choose(listing);
  }

  /** What a link must hold to show the same. */
  get view() {
    const { window, cursor, pinned } = this.timeline;
    const { source: run, tag } = this.listing ?? {};
    const place = { run, tag, layer: this.layer.value, color: this.color.value };
    return { ...place, from: Math.round(window.from), to: Math.round(window.to), at: cursor, pinned };
  }

  /** Choose an episode; the lists offer what stands beside it. */
  choose(listing) {
    if (!listing) return;
    this.chosen = idOf(listing);
    const inRun = this.listings.filter((known) => known.run === listing.run);
    const here = inRun.filter((known) => known.step === listing.step);
    const steps = unique(inRun.map((known) => known.step)).sort((a, b) => a - b);
    fill(this.run, unique(this.listings.map((known) => known.run)), listing.run);
    fill(this.step, steps.map(String), String(listing.step), (step) => Number(step).toLocaleString("en"));
    fill(this.name, here.map(idOf), this.chosen, (id) => nameAmong(here, id));
    this.open(listing);
  }

  get listing() {
    return this.listings.find((known) => idOf(known) === this.chosen);
  }

  /** The episode of the chosen run at a training step (text) that is called as the present one, or the latest there. */
  sameNameAt(step) {
    const there = this.listings.filter((known) => known.run === this.run.value && String(known.step) === step);
    return there.find((known) => known.name === this.listing?.name) ?? latest(there);
  }

  /** Read the chosen episode, unless it is shown already. */
  async open(listing) {
    if (this.shown === this.chosen) return;
    this.shown = this.chosen;
    const token = ++this.token;
    this.box.setAttribute("aria-busy", "true");
    try {
      const episode = await new Episode(listing.source, listing.tag, this.tile, () => this.arrived(), this.failed).open();
      if (token === this.token) this.begin(episode);
    } catch (error) {
      if (token !== this.token) return;
      this.shown = undefined; // to be tried again with the next list of episodes
      this.timeline.episode = null;
      this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
      for (const part of [this.below, this.legend, this.help]) part.replaceChildren();
      this.summary.textContent = `This episode can't be shown: ${error.message}`;
    }
    if (token === this.token) this.box.removeAttribute("aria-busy");
  }

  begin(episode) {
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
    this.timeline.setCursor(Number(view?.at ?? about.start) || 0, false);
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
    const evictions = about.layers.reduce((sum, layer) => sum + layer.evictions, 0);
    this.summary.textContent = [
      counted(about.steps, "step"),
      about.has_labels ? counted(about.total_reward, "right answer") : `return ${format(about.total_reward)}`,
      ...(about.episode_end ? [about.episode_end] : []),
      ...(about.relevant.length ? [counted(about.relevant.length, "relevant step")] : []),
      counted(evictions, "eviction"),
    ].join(", ");
    this.legend.replaceChildren(...legend(about, layers, this.timeline.color, this.timeline.theme));
    this.help.replaceChildren(...keyHelp(about.relevant.length > 0));
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
    this.details.show(step, layers, episode.pictures(wanted), episode.about);
  }
}

const unique = (values) => [...new Set(values)];

const counted = (count, name) => `${format(count)} ${name}${count === 1 ? "" : "s"}`;

/** Tells an episode from all others, as the value of a choice. */
const idOf = (listing) => JSON.stringify([listing.source, listing.tag]);

/** What the tab opens on: the latest recording of the run that was recorded into last, however short that run is. */
export function firstShown(listings) {
  const newest = listings.reduce((best, known) => (best && best.wall_time >= known.wall_time ? best : known), undefined);
  return latest(listings.filter((known) => known.run === newest.run));
}

/** The recording of the highest training step, of several the one written last. */
function latest(listings) {
  const later = (one, other) => one.step - other.step || one.wall_time - other.wall_time;
  return listings.reduce((best, known) => (best && later(best, known) >= 0 ? best : known), undefined);
}

/** How an episode is called among those of its training step: by its seed, and by what recorded it where two have the same. */
function nameAmong(listings, id) {
  const listing = listings.find((known) => idOf(known) === id);
  const name = /^\d+$/.test(listing.name) ? `seed ${listing.name}` : listing.name;
  const alone = listings.filter((known) => known.name === listing.name).length === 1;
  return alone ? name : `${name}, in ${listing.source === listing.run ? "training" : "evaluation"}`;
}

/** Offer these values in a list; a list that offers them already is left alone, so that it may stay open. */
function fill(select, values, chosen, label = (value) => value) {
  const same = select.options.length === values.length && values.every((value, i) => select.options[i].value === value);
  if (!same) select.replaceChildren(...values.map((value) => element("option", { value }, label(value))));
  if (values.includes(chosen)) select.value = chosen;
}
