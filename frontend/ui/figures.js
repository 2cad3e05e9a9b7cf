// What the server counts, read from Prometheus' text: pure, no page in it.

/** The samples that the page asks for. */
export const METRICS = [
  "smartbatch_http_requests_total",
  "smartbatch_request_seconds_bucket",
  "smartbatch_queue_requests",
  "smartbatch_queue_capacity",
  "smartbatch_workers",
  "smartbatch_batches_total",
  "smartbatch_batch_size_sum",
  "smartbatch_batch_size_count",
  "smartbatch_forward_size_sum",
  "smartbatch_forward_size_count",
  "smartbatch_stage_seconds_total",
  "smartbatch_model_weights_random",
];
const STAGES = ["decode", "stack", "forward", "encode"];

/** Prometheus' text to [{name, labels, value}]. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const [, name, labelled, value] = /^([a-z_]\w*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (name) {
      const labels = {};
      for (const [, key, quoted] of (labelled ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[key] = quoted.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
      }
      samples.push({name, labels, value: Number(value)});
    }
  }
  return samples;
}

function named(samples, name, where) {
  return samples.filter((s) => s.name === name && Object.entries(where).every(([key, value]) => s.labels[key] === value));
}

/** The sum over the samples of a name whose labels include those of `where`. */
export function total(samples, name, where) {
  return named(samples, name, where).reduce((sum, sample) => sum + sample.value, 0);
}

/** As `smartbatch metrics` has it: interpolated in a bucket whose bounds lie a tenth apart; seconds, or null. */
function quantile(share, since, now, where) {
  const counts = new Map();
  for (const [samples, sign] of [[now, 1], [since, -1]]) {
    for (const {labels, value} of named(samples, "smartbatch_request_seconds_bucket", where)) {
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + sign * value);
    }
  }
  const buckets = [...counts].sort(([a], [b]) => a - b);
  const rank = share * (buckets.at(-1)?.[1] ?? 0);
  if (!rank) {
    return null;
  }
  const at = buckets.findIndex(([, count]) => count >= rank);
  const [bound, count] = buckets[at];
  const [lower, below] = at ? buckets[at - 1] : [buckets[0][0] ** 2 / buckets[1][0], 0];
  return bound === Infinity ? lower : lower * (bound / lower) ** ((rank - below) / (count - below));
}

/** What happened to a model between two looks, each {at, samples}; null where nothing tells. */
export function figuresOf(model, since, now) {
  const of = {model};
  const gain = (name, where = of) => total(now.samples, name, where) - total(since.samples, name, where);
  const perSecond = (number) => (now.at > since.at ? (number * 1000) / (now.at - since.at) : null);
  const average = (name) => (gain(`${name}_count`) ? gain(`${name}_sum`) / gain(`${name}_count`) : null);
  const requests = gain("smartbatch_http_requests_total");
  const answered = named(now.samples, "smartbatch_http_requests_total", of)
    .filter(({labels}) => labels.status.startsWith("2"))
    .reduce((sum, {labels}) => sum + gain("smartbatch_http_requests_total", labels), 0);
  const batches = gain("smartbatch_batches_total");
  const good = {model, outcome: "success"};
  return {
    queue: total(now.samples, "smartbatch_queue_requests", of),
    capacity: total(now.samples, "smartbatch_queue_capacity", of),
    ready: total(now.samples, "smartbatch_workers", {model, state: "model_loaded"}),
    workers: total(now.samples, "smartbatch_workers", of) - total(now.samples, "smartbatch_workers", {model, state: "scaled_down"}),
    rate: perSecond(requests),
    failures: perSecond(requests - answered),
    batch: average("smartbatch_batch_size"),
    forward: average("smartbatch_forward_size"),
    p50: quantile(0.5, since.samples, now.samples, good),
    p95: quantile(0.95, since.samples, now.samples, good),
    stages: STAGES.map((stage) => [stage, batches ? (gain("smartbatch_stage_seconds_total", {model, stage}) * 1000) / batches : 0]),
  };
}
