"use strict";
/* From numbers to places: axes, their round numbers, and curves of more points than a screen has. */

/** Round numbers from low to high, about as many as wanted. */
function niceTicks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

/** Round numbers of a logarithmic axis: powers of ten, or 1, 2 and 5 times those where few fit. */
function logTicks(low, high, wanted) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const within = (factors) => {
    const found = [];
    for (let power = first; power <= last; power += 1) {
      for (const factor of factors) found.push(Number((factor * 10 ** power).toPrecision(6)));
    }
    return found.filter((value) => value >= low && value <= high);
  };
  const decades = within([1]);
  if (decades.length >= 3) {
    const every = Math.ceil(decades.length / Math.max(2, wanted));
    return decades.filter((_, place) => place % every === 0);
  }
  for (const factors of [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    const ticks = within(factors);
    if (ticks.length >= 3) return ticks;
  }
  return niceTicks(low, high, wanted);
}

/** An axis that leads from values to pixels and back. */
class Axis {
  constructor(low, high, from, to, log = false) {
    this.log = log && low > 0;
    this.low = low;
    this.high = high > low ? high : low + (Math.abs(low) || 1);
    Object.assign(this, { from, to });
    [this.start, this.length] = this.log
      ? [Math.log(this.low), Math.log(this.high / this.low)]
      : [this.low, this.high - this.low];
  }

  at(value) {
    const along = ((this.log ? Math.log(value) : value) - this.start) / this.length;
    return this.from + along * (this.to - this.from);
  }

  value(pixel) {
    const place = this.start + ((pixel - this.from) / (this.to - this.from)) * this.length;
    return this.log ? Math.exp(place) : place;
  }

  ticks(wanted) {
    return this.log ? logTicks(this.low, this.high, wanted) : niceTicks(this.low, this.high, wanted);
  }
}

/** Where in points, sorted by x, the first one lies that isn't left of a value. */
function firstFrom(points, x) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The point nearest to a place on the x axis; `null` where there is none. */
function nearestPoint(points, x) {
  const right = firstFrom(points, x);
  const [before, after] = [points[right - 1], points[right]];
  if (!before || !after) return before ?? after ?? null;
  return x - before[0] <= after[0] - x ? before : after;
}

/** The part of a curve between two x, with one point more at each side so that lines lead out of the chart. */
function visible(points, low, high) {
  return points.slice(Math.max(0, firstFrom(points, low) - 1), firstFrom(points, high) + 2);
}

/**
 * A curve of at most about two points a pixel: of the points of each pixel the lowest and the highest stay, so that no
 * peak is lost.
 */
function thinned(points, pixels) {
  if (points.length <= 2 * pixels) return points;
  const size = points.length / pixels;
  const kept = [];
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    const [from, to] = [Math.floor(pixel * size), Math.floor((pixel + 1) * size)];
    let [least, most] = [from, from];
    for (let k = from + 1; k < to; k += 1) {
      if (points[k][1] < points[least][1]) least = k;
      if (points[k][1] > points[most][1]) most = k;
    }
    kept.push(points[Math.min(least, most)]);
    if (least !== most) kept.push(points[Math.max(least, most)]);
  }
  return kept;
}

/** A running mean of the points around each, `width` of them; narrower at both ends. */
function smoothed(points, width) {
  if (width < 2) return points;
  const sums = [0];
  for (const [, y] of points) sums.push(sums[sums.length - 1] + y);
  const half = Math.floor(width / 2);
  return points.map(([x], place) => {
    const reach = Math.min(half, place, points.length - 1 - place);
    const [from, to] = [place - reach, place + reach + 1];
    return [x, (sums[to] - sums[from]) / (to - from)];
  });
}

/** The points that are numbers, in the order of their steps. */
function finitePoints(points) {
  const kept = points.filter(([x, y]) => Number.isFinite(x) && typeof y === "number" && Number.isFinite(y));
  return kept.every(([x], place) => place === 0 || kept[place - 1][0] <= x) ? kept : kept.sort((a, b) => a[0] - b[0]);
}
