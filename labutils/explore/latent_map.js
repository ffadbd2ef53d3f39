// A map of codes on a canvas, for the exported page and LatentMap; network.js stands before it in the same module.

const SIDE = 140, MARGIN = 14;

/** Return [squared distance, index] of the point of xy (N·2) nearest to (x, y). */
function nearest(xy, x, y) {
  let best = [Infinity, -1];
  for (let i = 0; 2 * i < xy.length; i++) {
    const distance = (xy[2 * i] - x) ** 2 + (xy[2 * i + 1] - y) ** 2;
    if (distance < best[0]) best = [distance, i];
  }
  return best;
}

/** Unpack the data of latent_map.py:
 *  {xy (N·2), labels (N), codes (N·latent_dim), decode(z, label) or null, matrix or null, inverse(x, y),
 *  imageAt(x, y), labelAt(x, y), locate(z)}. */
export function latentPlane(data) {
  const xy = floats(data.xy), labels = shorts(data.labels), codes = floats(data.z), d = codes.length / labels.length;
  const matrix = data.matrix && floats(data.matrix);
  /** Return the code of a point: exact for a linear projection, else that of the nearest point. */
  const inverse = (x, y) => {
    if (matrix) return Float32Array.from({ length: d }, (_, k) => x * matrix[k] + y * matrix[d + k] + matrix[2 * d + k]);
    const i = imageAt(x, y);
    return codes.slice(i * d, (i + 1) * d);
  };
  /** Return the image nearest to a point, and the label for a conditional decoder there: that image's. */
  const imageAt = (x, y) => nearest(xy, x, y)[1];
  const labelAt = (x, y) => (data.decoder?.labels ? labels[imageAt(x, y)] : -1);
  /** Return the place of a code: exact for a linear projection, else that of the nearest code. */
  const locate = (z) => {
    if (matrix) { // least squares: the plane's two directions need not be orthogonal
      const [a, b] = [matrix.subarray(0, d), matrix.subarray(d, 2 * d)], c = z.map((v, k) => v - matrix[2 * d + k]);
      const dot = (u, v) => u.reduce((sum, w, k) => sum + w * v[k], 0);
      const [aa, ab, bb, ac, bc] = [dot(a, a), dot(a, b), dot(b, b), dot(a, c), dot(b, c)], det = aa * bb - ab * ab;
      return [(bb * ac - ab * bc) / det, (aa * bc - ab * ac) / det];
    }
    let best = [Infinity, 0];
    for (let i = 0; i < labels.length; i++) {
      let distance = 0;
      for (let k = 0; k < d; k++) distance += (codes[i * d + k] - z[k]) ** 2;
      if (distance < best[0]) best = [distance, i];
    }
    return [xy[2 * best[1]], xy[2 * best[1] + 1]];
  };
  const decode = data.decoder && makeDecoder(data.decoder);
  return { ...data, xy, labels, codes, matrix, inverse, imageAt, labelAt, locate, decode };
}

/** Draw the map of a `latentPlane` into `root`; returns {show(url), say(words), select(i), mark(x, y, what)}.
 *  on: {click(index), place(x, y), hover(x, y)}: a point is chosen; a place beside all points (may be missing); and, only
 *  where the browser cannot decode, a place to show the picture of, which `show` answers. */
export function latentMap(root, plane, on) {
  const width = 600, height = 440, ratio = window.devicePixelRatio || 1;
  const { xy, labels, names, colours, extent: [x0, x1, y0, y1] } = plane;
  const how = { codes: "Across z0, up z1.", pca: "PCA: a place is decoded as it is.", tsne: "t-SNE", umap: "UMAP" };
  const projected = how[plane.method] + (plane.matrix ? "" : ": a place shows the code of the nearest image.");
  const mixed = plane.decoder?.labels ? " The colours mix: the decoder is told the class, and the code holds the rest." : "";
  const dot = "display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px";
  const legend = colours.map((colour) => `<div><span style="${dot}; background: ${colour}"></span></div>`);
  root.style.cssText = "display: flex; gap: 12px; flex-wrap: wrap; font: 12px system-ui, sans-serif";
  root.innerHTML = `
    <canvas width="${width * ratio}" height="${height * ratio}" tabindex="0" role="application" data-lm-suppress-shortcuts="true"
      aria-roledescription="map" aria-label="map of ${labels.length} codes: arrow keys walk, Enter loads the nearest image"
      style="width: ${width}px; max-width: 100%; touch-action: pan-y; cursor: crosshair; background: #fff; border: 1px solid #bbb"></canvas>
    <div style="width: ${SIDE}px">
      <img class="latent-map-picture" alt="decoded picture of the point under the mouse" style="image-rendering: pixelated;
        width: ${SIDE - 2}px; height: ${SIDE - 2}px; background: #fff; border: 1px solid #bbb">
      <div style="line-height: 1.4; margin: 4px 0 8px">
        <div class="latent-map-text" role="status" style="min-height: 2.8em">decoded at the map's middle</div><div class="latent-map-mark" style="min-height: 1.4em"></div>
        ${projected}${mixed} Walk by mouse or finger, or by arrow keys and Enter.</div>
      <div class="latent-map-legend" style="line-height: 1.6; columns: 2">${legend.join("")}</div>
    </div>`;
  const [canvas, picture, text, note] = ["canvas", "img", ".latent-map-text", ".latent-map-mark"].map((part) => root.querySelector(part));
  root.querySelectorAll(".latent-map-legend > div").forEach((line, i) => line.append(names[i])); // as text: a reader's words
  const show = (url) => { picture.src = url; };
  const say = (words) => { text.textContent = words; };

  const px = (x) => MARGIN + (x - x0) / (x1 - x0) * (width - 2 * MARGIN);
  const py = (y) => MARGIN + (y1 - y) / (y1 - y0) * (height - 2 * MARGIN);
  const fromPx = (u) => x0 + (u - MARGIN) / (width - 2 * MARGIN) * (x1 - x0);
  const fromPy = (v) => y1 - (v - MARGIN) / (height - 2 * MARGIN) * (y1 - y0);
  const screen = xy.map((v, i) => (i % 2 ? py(v) : px(v)));

  const pen = canvas.getContext("2d");
  const disc = (i, radius) => {
    pen.beginPath();
    pen.arc(screen[2 * i], screen[2 * i + 1], radius, 0, 7);
  };
  /** Draw all points, and a ring around one of them (none for −1). */
  const draw = (selected = -1) => {
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.globalAlpha = 0.65;
    labels.forEach((label, i) => {
      pen.fillStyle = colours[label];
      disc(i, 2.4);
      pen.fill();
    });
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    note.textContent = selected < 0 ? "" : "○ the image shown";
    if (selected < 0) return;
    disc(selected, 7);
    pen.stroke();
  };

  const sketch = document.createElement("canvas");
  const look = (x, y) => {
    if (!plane.decode) return on.hover(x, y);
    const image = toImage(plane.decode(plane.inverse(x, y), plane.labelAt(x, y)));
    sketch.width = sketch.height = image.width;
    sketch.getContext("2d").putImageData(image, 0, 0);
    show(sketch.toDataURL());
  };
  const pointAt = (u, v, within) => {
    const [distance, i] = nearest(screen, u, v);
    return distance < within * within ? i : -1;
  };
  /** The place of an event in the canvas's own pixels: a narrow page shows it smaller. */
  const place = ({ offsetX, offsetY }) => [offsetX, offsetY].map((v) => v * width / (canvas.clientWidth || width));
  let at = [width / 2, height / 2]; // where the mouse or the keys are
  const walk = (u, v) => {
    at = [u, v];
    const x = fromPx(u), y = fromPy(v), i = pointAt(u, v, 8);
    say(`decoded at (${x.toFixed(2)}, ${y.toFixed(2)})` + (i >= 0 ? `: near a ${names[labels[i]]}` : ""));
    look(x, y);
  };
  const loadPoint = (u, v, within) => {
    const i = pointAt(u, v, within);
    if (i < 0) return on.place?.(fromPx(u), fromPy(v));
    say(`loaded a ${names[labels[i]]}`);
    draw(i);
    on.click(i);
  };
  for (const moved of ["pointerdown", "pointermove"]) canvas.addEventListener(moved, (event) => walk(...place(event)));
  canvas.addEventListener("click", (event) => loadPoint(...place(event), 12));
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") loadPoint(...at, Infinity);
    else if (STEPS[event.key]) {
      const [u, v] = STEPS[event.key].map((step, k) => at[k] + step * (event.shiftKey ? 50 : 10));
      walk(Math.min(Math.max(u, 0), width), Math.min(Math.max(v, 0), height));
      mark(fromPx(at[0]), fromPy(at[1]));
    } else return;
    event.preventDefault(); // the page stays where it is; data-lm-suppress-shortcuts keeps Jupyter's keys away
  });
  draw();
  look((x0 + x1) / 2, (y0 + y1) / 2);
  /** Draw a cross at a place, as far as the map reaches, and say of what. */
  const mark = (x, y, what = "where the keys are") => {
    draw();
    note.textContent = `× ${what}`;
    const u = Math.min(Math.max(px(x), 6), width - 6), v = Math.min(Math.max(py(y), 6), height - 6);
    pen.beginPath();
    for (const [a, b] of [[-1, -1], [-1, 1]]) { pen.moveTo(u + 8 * a, v + 8 * b); pen.lineTo(u - 8 * a, v - 8 * b); }
    pen.lineWidth = 3;
    pen.strokeStyle = "#000";
    pen.stroke();
  };
  return { show, say, select: draw, mark };
}

// The widget: anywidget calls render with the Python side's traits as a model.
export default {
  render({ model, el }) {
    const root = el.appendChild(document.createElement("div"));
    let asked = false, next = null; // one question at a time; the newest place since then is the next
    const hover = (...xy) => {
      next = asked ? xy : null;
      if (!asked) model.send({ hover: xy });
      asked = true;
    };
    const map = latentMap(root, latentPlane(model.get("data")), { click: (i) => model.send({ click: i }), hover });
    const answered = ({ picture, error }) => {
      if (error) map.say(error); else map.show(picture);
      asked = false;
      if (next) hover(...next);
    };
    model.on("msg:custom", answered);
    return () => model.off("msg:custom", answered);
  },
};
