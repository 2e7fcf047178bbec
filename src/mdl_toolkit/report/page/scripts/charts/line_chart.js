"use strict";
/* Curves over steps. All charts of a page share what part of the steps they show. */

const CHART_HEIGHT = 232;
const CHART_EDGE = { left: 58, right: 14, top: 12, bottom: 30 };
const LEAST_DRAG = 6;
/* Beyond the ends of the axes, so that the dots there are whole. */
const DOT_ROOM = 5;

/** The part of the steps that is looked at, for all charts together. */
class StepRange {
  constructor(low, high) {
    this.whole = [low, high > low ? high : low + 1];
    [this.low, this.high] = this.whole;
    this.listeners = [];
  }

  get isWhole() {
    return this.low === this.whole[0] && this.high === this.whole[1];
  }

  /** Look at a part; it is kept within the steps that there are, and at least one step wide. */
  show(low, high) {
    const [first, last] = this.whole;
    const width = Math.min(last - first, Math.max(1, high - low));
    const start = Math.min(Math.max(first, low), last - width);
    if (!Number.isFinite(start)) return;
    [this.low, this.high] = [start, start + width];
    for (const listener of this.listeners) listener();
  }

  reset() {
    this.show(...this.whole);
  }

  /** Make what is seen wider (above 1) or narrower around a step. */
  zoom(factor, around = (this.low + this.high) / 2) {
    this.show(around - (around - this.low) * factor, around + (this.high - around) * factor);
  }

  /** Move by a share of what is seen. */
  move(part) {
    const by = part * (this.high - this.low);
    this.show(this.low + by, this.high + by);
  }

  onChange(listener) {
    this.listeners.push(listener);
  }
}

/**
 * A chart of curves and dots.
 *
 * `lines`: each `{run, label, points, dots, dash}`; dots are joined by a thin line, of dashes where it is to be told apart.
 * `key`: `{text, dots, dash}` each, what the kinds of lines are.
 * `stops`: each `{run, step}`; where there was an evaluation, a mark stands on the x axis.
 */
class LineChart {
  constructor({ title, lines, format, range, log = false, key = [], stops = [] }) {
    Object.assign(this, { title, lines, format, range, log, stops, smoothing: 1 });
    this.hidden = new Set();
    this.marker = null;
    this.tip = el("div", { class: "chart-tip", hidden: true, "aria-hidden": "true" });
    this.drawing = svg("svg", { class: "chart-drawing", "aria-hidden": "true", height: CHART_HEIGHT });
    const summary = newId("summary");
    this.summary = el("p", { id: summary, class: "unseen" });
    this.plot = el(
      "div",
      {
        class: "chart-plot", tabindex: 0, role: "group", "aria-roledescription": "zoomable chart",
        "aria-label": title, "aria-describedby": `${summary} chart-keys`,
      },
      this.drawing,
      this.tip,
    );
    const head = el("div", { class: "chart-head" }, el("h3", {}, title), el("ul", { class: "line-key" }, key.map(lineKey)));
    this.element = el("figure", { class: "chart panel" }, head, this.plot, this.summary);
    this.redraw = oncePerFrame(() => this.draw());
    new ResizeObserver(this.redraw).observe(this.plot);
    range.onChange(this.redraw);
    this.listen();
  }

  /** The curves that are shown, without what can't stand on the axis. */
  get shown() {
    return this.lines
      .filter((line) => !this.hidden.has(line.run.index))
      .map((line) => ({ ...line, points: this.log ? line.points.filter(([, y]) => y > 0) : line.points }))
      .filter((line) => line.points.length);
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const { left, right, top, bottom } = CHART_EDGE;
    this.x = new Axis(this.range.low, this.range.high, left, width - right);
    const drawn = this.shown.map((line) => ({
      ...line,
      seen: visible(line.points, this.range.low, this.range.high),
    }));
    this.y = this.heights(drawn, CHART_HEIGHT - bottom, top);
    this.drawing.setAttribute("width", width);
    const clip = `${this.summary.id}-clip`;
    const curves = drawn.flatMap((line) => this.curve(line, width));
    refill(
      this.drawing,
      svg("clipPath", { id: clip }, svg("rect", { x: left - DOT_ROOM, y: 0, width: width - left - right + 2 * DOT_ROOM, height: CHART_HEIGHT - bottom + DOT_ROOM })),
      this.frame(width),
      svg("g", { "clip-path": `url(#${clip})` }, curves),
      (this.marks = svg("g", {})),
    );
    this.summary.textContent = this.describe(drawn);
    this.mark(this.marker);
  }

  /** The y axis that holds what is seen, with some room. */
  heights(drawn, from, to) {
    let [low, high] = [Infinity, -Infinity];
    for (const { seen } of drawn) {
      for (const [x, y] of seen) {
        if (x < this.range.low || x > this.range.high) continue;
        low = Math.min(low, y);
        high = Math.max(high, y);
      }
    }
    if (low > high) [low, high] = this.log ? [0.1, 1] : [0, 1];
    if (this.log) return new Axis(low / 1.12, high * 1.12, from, to, true);
    // From zero, unless the curve would be no more than a line high above it.
    const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
    if (low === 0 && high === 0) return new Axis(0, room, from, to);
    const base = low >= 0 && low < 0.6 * high ? 0 : low - room;
    return new Axis(base, high + room, from, to);
  }

  frame(width) {
    const { left, right, bottom } = CHART_EDGE;
    const floor = CHART_HEIGHT - bottom;
    const rows = this.y.ticks(4).map((value) => {
      const y = this.y.at(value);
      return [
        svg("line", { class: "rule", x1: left, x2: width - right, y1: y, y2: y }),
        svg("text", { class: "tick-y", x: left - 8, y: y + 4 }, this.format(value)),
      ];
    });
    const columns = this.x.ticks(width < 420 ? 4 : 6).filter(Number.isInteger).map((value) => {
      const x = this.x.at(value);
      return svg("text", { class: "tick-x", x, y: floor + 19 }, number(value));
    });
    const stops = this.stops
      .filter(({ run, step }) => !this.hidden.has(run.index) && step >= this.range.low && step <= this.range.high)
      .map(({ run, step }) => {
        const x = this.x.at(step);
        return svg("path", { class: "stop", style: { "--run": run.color }, d: `M${x} ${floor - 7}l3.5 7h-7z` });
      });
    return svg("g", {}, rows, columns, svg("line", { class: "base", x1: left, x2: width - right, y1: floor, y2: floor }), stops);
  }

  curve({ run, seen, dots, dash }, width) {
    const style = { "--run": run.color };
    const path = (points) => {
      const places = thinned(points, width).map(([x, y]) => `${this.x.at(x).toFixed(1)} ${this.y.at(y).toFixed(1)}`);
      return places.length ? `M${places.join("L")}` : "";
    };
    if (dots) {
      return [
        svg("path", { class: "curve dotted", style, "stroke-dasharray": dash, d: path(seen) }),
        ...thinned(seen, width).map(([x, y]) =>
          svg("circle", { class: "dot", style, cx: this.x.at(x).toFixed(1), cy: this.y.at(y).toFixed(1), r: 3.6 }),
        ),
      ];
    }
    const narrow = svg("path", { class: "curve", style, d: path(smoothed(seen, this.smoothing)) });
    return this.smoothing > 1 ? [svg("path", { class: "curve faint", style, d: path(seen) }), narrow] : [narrow];
  }

  /** What a person who doesn't see the chart has to know of it. */
  describe(drawn) {
    const part = this.range.isWhole ? "" : ` Zoomed to steps ${number(Math.round(this.range.low))} to ${number(Math.round(this.range.high))}.`;
    const each = drawn.map(({ label, seen }) => {
      const within = seen.filter(([x]) => x >= this.range.low && x <= this.range.high);
      if (!within.length) return `${label}: nothing here`;
      const [first, last] = [within[0], within[within.length - 1]];
      const low = within.reduce((best, point) => (point[1] < best[1] ? point : best));
      const high = within.reduce((best, point) => (point[1] > best[1] ? point : best));
      const say = ([x, y]) => `${this.format(y)} at step ${number(x)}`;
      return `${label}: from ${say(first)} to ${say(last)}, lowest ${say(low)}, highest ${say(high)}`;
    });
    return `${each.join(". ")}.${part}`;
  }

  listen() {
    const place = (event) => event.clientX - this.plot.getBoundingClientRect().left;
    let drag = null;
    this.plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.x) return;
      drag = { from: place(event), low: this.range.low, high: this.range.high, pan: event.shiftKey };
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.x) return;
      const at = place(event);
      if (drag?.pan) {
        const by = ((drag.from - at) / (this.x.to - this.x.from)) * (drag.high - drag.low);
        this.range.show(drag.low + by, drag.high + by);
      } else {
        this.mark(this.x.value(at), drag && Math.abs(at - drag.from) > LEAST_DRAG ? [drag.from, at] : null);
      }
    });
    const stop = (event) => {
      const done = drag;
      drag = null;
      if (event.type !== "pointerup" || !done || done.pan) return;
      const at = place(event);
      if (Math.abs(at - done.from) <= LEAST_DRAG) return;
      const [low, high] = [this.x.value(done.from), this.x.value(at)].sort((one, other) => one - other);
      this.range.show(low, high);
    };
    this.plot.addEventListener("pointerup", stop);
    this.plot.addEventListener("pointercancel", stop);
    this.plot.addEventListener("pointerleave", () => !drag && this.mark(null));
    this.plot.addEventListener("blur", () => this.mark(null));
    this.plot.addEventListener("dblclick", () => this.range.reset());
    // The wheel scrolls the page as everywhere, until the chart was clicked, or Ctrl is held.
    this.plot.addEventListener("wheel", (event) => {
      if (!this.x || !(event.ctrlKey || event.metaKey || document.activeElement === this.plot)) return;
      event.preventDefault();
      this.range.zoom(Math.exp(Math.max(-0.5, Math.min(0.5, event.deltaY / 300))), this.x.value(place(event)));
    }, { passive: false });
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      "+": () => this.range.zoom(0.6, this.marker ?? undefined),
      "=": () => this.range.zoom(0.6, this.marker ?? undefined),
      "-": () => this.range.zoom(1 / 0.6, this.marker ?? undefined),
      0: () => this.range.reset(),
      Escape: () => (this.marker === null ? this.range.reset() : this.mark(null)),
      ArrowLeft: () => (event.shiftKey ? this.range.move(-0.2) : this.walk(-1)),
      ArrowRight: () => (event.shiftKey ? this.range.move(0.2) : this.walk(1)),
      Home: () => this.walkTo(this.range.low),
      End: () => this.walkTo(this.range.high),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Read the point before or after the one that is marked. */
  walk(by) {
    const points = this.shown.flatMap((line) => line.points.map(([x]) => x)).sort((one, other) => one - other);
    const steps = [...new Set(points)];
    if (!steps.length) return;
    const at = this.marker ?? (by > 0 ? this.range.low - 1 : this.range.high + 1);
    const next = by > 0 ? steps.find((step) => step > at) : steps.findLast((step) => step < at);
    if (next === undefined) return;
    if (next < this.range.low || next > this.range.high) this.range.move(next < this.range.low ? -0.5 : 0.5);
    this.walkTo(next);
  }

  walkTo(step) {
    const read = this.mark(step);
    if (read) announce(read);
  }

  /** Show what the curves are at a step; `null` takes it away. Gives what is read there as text. */
  mark(step, selection = null) {
    this.marker = step;
    if (!this.marks || !this.x) return "";
    refill(this.marks);
    this.tip.hidden = true;
    if (step === null) return "";
    const { top, bottom } = CHART_EDGE;
    const found = this.shown
      .map((line) => ({ ...line, point: nearestPoint(line.points, step) }))
      .filter(({ point }) => point && point[0] >= this.range.low && point[0] <= this.range.high);
    if (selection) {
      const [from, to] = [...selection].sort((one, other) => one - other);
      this.marks.append(svg("rect", { class: "selection", x: from, y: top, width: to - from, height: CHART_HEIGHT - top - bottom }));
    }
    if (!found.length) return "";
    const nearest = found.reduce((best, one) =>
      Math.abs(one.point[0] - step) < Math.abs(best.point[0] - step) ? one : best).point[0];
    this.marker = nearest;
    const x = this.x.at(nearest);
    this.marks.append(svg("line", { class: "cursor", x1: x, x2: x, y1: top, y2: CHART_HEIGHT - bottom }));
    for (const { run, point } of found) {
      this.marks.append(svg("circle", { class: "dot", style: { "--run": run.color }, cx: this.x.at(point[0]), cy: this.y.at(point[1]), r: 4.5 }));
    }
    this.showTip(nearest, found, x);
    return `Step ${number(nearest)}: ${found.map(({ label, point }) => `${label} ${this.format(point[1])}`).join(", ")}`;
  }

  showTip(step, found, x) {
    const rows = found.map(({ run, label, point }) =>
      el("div", {}, runMark(run), el("span", {}, point[0] === step ? label : `${label}, step ${number(point[0])}`), el("b", {}, this.format(point[1]))));
    refill(this.tip, el("p", {}, `Step ${number(step)}`), rows);
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    const left = x + 14 + width > this.plot.clientWidth ? x - 14 - width : x + 14;
    this.tip.style.setProperty("left", `${Math.max(0, left)}px`);
  }
}

/** A short piece of a kind of line, and what it is. */
function lineKey({ text, dots, dash }) {
  const line = svg("line", { class: "key-line", x1: 1, x2: 27, y1: 6, y2: 6, "stroke-dasharray": dash });
  return el("li", {}, svg("svg", { width: 28, height: 12, "aria-hidden": "true" }, line, dots ? svg("circle", { class: "key-dot", cx: 14, cy: 6, r: 3.4 }) : null), text);
}
