// A network in plain JavaScript: the layers of network.py, for one image or code at a time.
// Maps are (height, width, channels), flat, the last index fastest.

/** Layers that map each number v by itself; i is its index. */
const POINTWISE = {
  relu: () => (v) => (v > 0 ? v : 0),
  leaky_relu: ({ slope }) => (v) => (v > 0 ? v : slope * v),
  silu: () => (v) => v / (1 + Math.exp(-v)),
  gelu: () => (v) => 0.5 * v * (1 + erf(v / Math.SQRT2)),
  elu: () => (v) => (v > 0 ? v : Math.expm1(v)),
  tanh: () => Math.tanh,
  sigmoid: () => (v) => 1 / (1 + Math.exp(-v)),
  norm: ({ weight, bias }) => (v, i) => v * weight[i % bias.length] + bias[i % bias.length],
};

/** Abramowitz and Stegun 7.1.26, error below 2e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - p * Math.exp(-x * x));
}

/** A convolution, transposed or not, with weight (kernel, kernel, inputs, outputs). */
function convolution(layer, x) {
  const { transposed, kernel, stride, padding, more, inputs, outputs, weight, bias } = layer;
  const n = Math.sqrt(x.length / inputs); // maps are square: n × n → N × N
  const N = transposed ? (n - 1) * stride - 2 * padding + kernel + more : Math.floor((n + 2 * padding - kernel) / stride) + 1;
  const y = new Float32Array(N * N * outputs), steps = transposed ? n : N, end = transposed ? N : n;
  for (let p = 0; p < y.length; p += outputs) y.set(bias, p);
  for (let r = 0; r < steps; r++) for (let c = 0; c < steps; c++)
    for (let kr = 0; kr < kernel; kr++) for (let kc = 0; kc < kernel; kc++) {
      const R = r * stride - padding + kr, C = c * stride - padding + kc;
      if (R < 0 || C < 0 || R >= end || C >= end) continue;
      const from = (transposed ? r * n + c : R * n + C) * inputs;
      const into = (transposed ? R * N + C : r * N + c) * outputs;
      for (let i = 0; i < inputs; i++) {
        const v = x[from + i], k = ((kr * kernel + kc) * inputs + i) * outputs;
        if (v !== 0) for (let o = 0; o < outputs; o++) y[into + o] += v * weight[k + o];
      }
    }
  return y;
}

/** A matrix (rows, columns), one of them −1: as many as there are; returned as (columns, rows). */
function transposed({ rows, columns }, x) {
  const R = rows < 0 ? x.length / columns : rows, C = x.length / R;
  return x.map((_, i) => x[(i % R) * C + Math.floor(i / R)]);
}

function run(layers, x) {
  for (const layer of layers) {
    if (layer.kind === "convolution") x = convolution(layer, x);
    else if (layer.kind === "transpose") x = transposed(layer, x);
    else if (layer.kind === "residual") { const y = run(layer.layers, x); x = x.map((v, i) => v + y[i]); }
    else x = x.map(POINTWISE[layer.kind](layer));
  }
  return x;
}

// arrays from base64
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export const floats = (text) => new Float32Array(bytes(text).buffer);
export const shorts = (text) => new Uint16Array(bytes(text).buffer);

const unpacked = (layers) => layers.map((layer) => ({
  ...layer,
  ...(layer.weight && { weight: floats(layer.weight), bias: floats(layer.bias) }),
  ...(layer.layers && { layers: unpacked(layer.layers) }),
}));

/** Return decode(z, label) of a spec {layers, latent_dim, labels}: pixels (height, width, channels) in [0, 1]. Label −1: none. */
export function makeDecoder(spec) {
  const layers = unpacked(spec.layers);
  return (z, label = -1) => {
    const x = new Float32Array(spec.latent_dim + spec.labels);
    x.set(z);
    if (spec.labels && label >= 0) x[spec.latent_dim + label] = 1;
    return run(layers, x);
  };
}

/** Return encode(pixels, label) of a spec {layers, latent_dim, label_shift}: the code; of a VAE mu. */
export function makeEncoder(spec) {
  const layers = unpacked(spec.layers), shift = spec.label_shift && floats(spec.label_shift);
  return (pixels, label = -1) => {
    const z = run(layers, pixels).slice(0, spec.latent_dim);
    return shift && label >= 0 ? z.map((v, k) => v + shift[label * z.length + k]) : z;
  };
}

/** Return classify(pixels) of a spec {layers}: the probability of each class. */
export function makeClassifier(spec) {
  const layers = unpacked(spec.layers);
  return (pixels) => {
    const logits = run(layers, pixels), top = Math.max(...logits);
    const shares = logits.map((v) => Math.exp(v - top)), sum = shares.reduce((a, b) => a + b);
    return shares.map((v) => v / sum);
  };
}

/** Return the pixels of a square image in [0, 1] as ImageData: grey ones as dark ink on white, else red, green, blue. */
export function toImage(pixels) {
  const channels = Number.isInteger(Math.sqrt(pixels.length)) ? 1 : 3, side = Math.sqrt(pixels.length / channels);
  const image = new ImageData(side, side);
  image.data.fill(255);
  pixels.forEach((v, i) => {
    if (channels === 1) image.data.fill(255 * (1 - v), 4 * i, 4 * i + 3);
    else image.data[4 * Math.floor(i / 3) + i % 3] = 255 * v;
  });
  return image;
}
