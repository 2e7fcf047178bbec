"use strict";
/* Numbers and names as people read them. */

const SCORE_NAMES = {
  wer: "WER", cer: "CER", map: "mAP", ap: "AP", f1: "F1", macro_f1: "Macro F1", weighted_f1: "Weighted F1",
  micro_f1: "Micro F1", bleu: "BLEU", rouge_l: "ROUGE-L", rougeL: "ROUGE-L", cider: "CIDEr", "cider-d": "CIDEr-D",
  cider_d: "CIDEr-D", fense: "FENSE", ece: "Calibration error", loss: "Loss", exact_match: "Exact match",
  eval_loss: "Loss", chrf: "chrF",
};
/* Scores that are no shares, whatever their size. */
const PLAIN_SCORES = new Set(["cider", "cider_d", "cider-d", "fense", "loss", "mean_logprob", "min_logprob"]);
const SERIES_NAMES = {
  loss: "Loss", learning_rate: "Learning rate", grad_norm: "Gradient norm", clips_per_second: "Clips per second",
  padding_share: "Padding", memory: "Memory",
};
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MISSING = "–";

/** `macro_f1` → `Macro F1`; `eval_wer/old` → `WER, old`. */
function scoreName(name) {
  const [score, set] = name.split("/", 2);
  const bare = score.replace(/^eval_/, "");
  const bleu = /^bleu_(\d)$/.exec(bare);
  const shown = bleu ? `BLEU-${bleu[1]}` : SCORE_NAMES[score] ?? SCORE_NAMES[bare] ?? SERIES_NAMES[bare] ?? sentence(bare.replaceAll("_", " "));
  return set ? `${shown}, ${set}` : shown;
}

/** A text that begins as sentences do. */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A number with as many digits as matter. */
function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return MISSING;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return WHOLE.format(value);
  const size = Math.abs(value);
  if (size >= 1000) return WHOLE.format(value);
  if (size < 1e-4) return value.toExponential(2).replace("e-", "e−").replace(/^-/, "−");
  return signed(size >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(4))));
}

/** A hyphen before digits is a minus. */
function signed(text) {
  return text.replace(/^-/, "−");
}

/** A share as percentage: 3.72 %, 80.5 %. */
function share(value, digits = null) {
  if (typeof value !== "number" || !Number.isFinite(value)) return MISSING;
  const hundredfold = 100 * value;
  return `${signed(hundredfold.toFixed(digits ?? (Math.abs(hundredfold) < 9.995 ? 2 : 1)))} %`;
}

/** Whether a score is a share of something, and so read as percentage. */
function isShare(name, value) {
  const bare = name.split("/")[0].replace(/^eval_/, "");
  if (PLAIN_SCORES.has(bare)) return false;
  if (bare in SCORE_NAMES) return true;
  return typeof value === "number" && Math.abs(value) <= 1 && !(Number.isInteger(value) && /count|rows|words|substitutions|deletions|insertions|hits/.test(bare));
}

/** A score's value in the form that its name asks for. */
function scoreValue(name, value) {
  return isShare(name, value) ? share(value) : number(value);
}

/** A difference of two values of a score, with its sign; shares differ by points. */
function scoreDifference(name, value) {
  if (typeof value !== "number") return MISSING;
  const sign = value > 0 ? "+" : "";
  return isShare(name, value) ? `${sign}${signed((100 * value).toFixed(2))} points` : sign + number(value);
}

/** An interval in brackets, or nothing where there is none. */
function interval(name, low, high, shown = scoreValue) {
  return typeof low === "number" && typeof high === "number" ? `${shown(name, low)} to ${shown(name, high)}` : "";
}

/** A probability of a paired test. */
function pValue(p) {
  if (typeof p !== "number") return MISSING;
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

function seconds(value) {
  if (typeof value !== "number") return MISSING;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return `${Math.floor(value / 60)}:${String(Math.floor(value % 60)).padStart(2, "0")} min`;
}

/** The unit in which a number of bytes is best read: its name and size. */
function byteUnit(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, value)) / 10)));
  return { name: units[step], size: 1024 ** step };
}

/** How the values of a curve are written. */
function seriesFormat(name) {
  const bare = name.split("/")[0];
  if (bare === "padding_share") return (value) => share(value);
  if (bare.startsWith("eval_")) return (value) => scoreValue(bare, value);
  return number;
}

/** `1 row`, `10,000 rows`. */
function counted(count, one, many = `${one}s`) {
  return `${WHOLE.format(count)} ${count === 1 ? one : many}`;
}

/** A cell of a table as text. */
function cellText(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return number(value);
  if (value === true) return "yes";
  if (value === false) return "no";
  return typeof value === "string" ? value : JSON.stringify(value);
}
