// A drawing pad: strokes of mouse, finger or pen, framed as MNIST frames digits (see pictures.py).

const PAD = 168, FIT = 20, FRAME = 28; // pixels of the pad, of the box that a digit fills, and of an image

const halfEven = (v) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v)); // Python's round
const clip = (v, low, high) => Math.min(Math.max(v, low), high);

/** Return for each of N new pixels [first of the n old ones, their weights], as Pillow resizes: by box to fewer pixels,
 *  by bicubic interpolation to more. */
function resampling(n, N) {
  const scale = n / N, wide = Math.max(scale, 1), support = (scale > 1 ? 0.5 : 2) * wide;
  const box = (x) => (x > -0.5 && x <= 0.5 ? 1 : 0);
  const cubic = (x) => { // a = −0.5
    const t = Math.abs(x);
    return t < 1 ? (1.5 * t - 2.5) * t * t + 1 : t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
  };
  return Array.from({ length: N }, (_, k) => {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5)), end = Math.min(n, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: end - first }, (_, i) => (scale > 1 ? box : cubic)((first + i - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((w) => w / sum)];
  });
}

/** Return ink (width × height numbers in [0, 1]) as an image of 784 pixels: cropped to the ink, fitted into 20 × 20, its
 *  centre of mass at the centre. null where there is none. */
export function framed(ink, width, height) {
  let top = height, bottom = -1, left = width, right = -1, darkest = 0;
  for (const v of ink) darkest = Math.max(darkest, v);
  if (darkest < 0.2) return null;
  for (let i = 0; i < ink.length; i++) if (ink[i] / darkest > 0.2) {
    const row = Math.floor(i / width), column = i % width;
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  }
  const h = bottom - top + 1, w = right - left + 1, scale = FIT / Math.max(h, w);
  const H = Math.max(1, halfEven(h * scale)), W = Math.max(1, halfEven(w * scale));
  const narrow = resampling(w, W), low = resampling(h, H), lines = new Float32Array(h * W), small = new Float32Array(H * W);
  for (let r = 0; r < h; r++) narrow.forEach(([first, weights], c) => {
    const from = (top + r) * width + left + first;
    lines[r * W + c] = weights.reduce((sum, v, k) => sum + v * ink[from + k], 0) / darkest;
  });
  low.forEach(([first, weights], r) => {
    for (let c = 0; c < W; c++) small[r * W + c] = clip(weights.reduce((sum, v, k) => sum + v * lines[(first + k) * W + c], 0), 0, 1);
  });
  let mass = 0, down = 0, across = 0;
  small.forEach((v, i) => { mass += v; down += v * Math.floor(i / W); across += v * (i % W); });
  const y = clip(halfEven(FRAME / 2 - down / mass), 0, FRAME - H), x = clip(halfEven(FRAME / 2 - across / mass), 0, FRAME - W);
  const image = new Float32Array(FRAME * FRAME);
  small.forEach((v, i) => { image[(y + Math.floor(i / W)) * FRAME + x + (i % W)] = v; });
  return image;
}

/** Draw a pad of `side` pixels into `root`, its buttons below or, on a small one, beside it; `changed` gets the framed image while a stroke grows, once a frame of the screen, and null
 *  for an empty pad. Pictures may be dropped, pasted into the page where no text is being edited, or chosen. Returns
 *  {clear(), load(picture), close()}; `close` stops listening to the page. */
export function drawingPad(root, changed, side = 224) {
  const look = "font: inherit; padding: 2px 8px; margin: 0 4px 4px 0; border: 1px solid #888; border-radius: 4px; background: #8881; color: inherit";
  root.style.cssText = `display: flex; flex-wrap: wrap; gap: 4px 10px; min-width: ${side < 200 ? side + 140 : side}px; font: 13px system-ui, sans-serif`;
  root.innerHTML = `<style>.pad-file:focus-within { outline: 2px solid #0072b2; outline-offset: 1px }</style>
    <canvas width="${PAD}" height="${PAD}" role="img" aria-label="pad to draw a digit on"
      style="width: ${side}px; height: ${side}px; touch-action: none; cursor: crosshair; background: #fff; border: 1px solid #888"></canvas>
    <div style="width: ${side < 200 ? 120 : side + 2}px">
      <button type="button" style="${look}">undo</button><button type="button" style="${look}">clear</button>
      <label>pen <input type="range" min="4" max="28" value="13" style="width: 48px; vertical-align: middle"></label>
      <label class="pad-file" style="${look}; position: relative; white-space: nowrap">picture…<input type="file" accept="image/*"
        style="position: absolute; inset: 0; width: 100%; opacity: 0; cursor: pointer"></label>
    </div>`;
  const canvas = root.querySelector("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
  const [undo, clear] = root.querySelectorAll("button"), [width, file] = root.querySelectorAll("input");
  let strokes = [], asked = false;

  /** Continue a stroke [{x, y, width}, …] from its point k. */
  const line = (points, k) => {
    const { x, y, width: w } = points[k], from = points[Math.max(0, k - 1)];
    pen.lineWidth = w;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.lineTo(x, y);
    pen.stroke();
  };
  const redraw = () => {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, PAD, PAD);
    pen.lineCap = pen.lineJoin = "round";
    for (const stroke of strokes) {
      if (stroke.picture) pen.drawImage(stroke.picture, 0, 0);
      else stroke.forEach((_, k) => line(stroke, k));
    }
    tell();
  };
  const tell = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      const { data } = pen.getImageData(0, 0, PAD, PAD);
      changed(framed(Float32Array.from({ length: PAD * PAD }, (_, i) => 1 - data[4 * i] / 255), PAD, PAD));
    });
  };

  const add = (event) => {
    const stroke = strokes.at(-1), { left, top, width: shown } = canvas.getBoundingClientRect();
    const several = event.getCoalescedEvents?.() ?? [];
    for (const { clientX, clientY, pressure, pointerType } of several.length ? several : [event]) {
      const press = pointerType === "pen" && pressure ? 0.4 + 1.2 * pressure : 1;
      stroke.push({ x: (clientX - left) * PAD / shown, y: (clientY - top) * PAD / shown, width: width.valueAsNumber * press });
      line(stroke, stroke.length - 1);
    }
    tell();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    strokes.push([]);
    add(event);
  });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons && canvas.hasPointerCapture(event.pointerId)) add(event); });
  undo.addEventListener("click", () => { strokes.pop(); redraw(); });
  clear.addEventListener("click", () => { strokes = []; redraw(); });

  /** Put a picture of a digit on the pad: dark ink on white, whichever it was. */
  const load = async (blob) => {
    const bitmap = await createImageBitmap(blob), scale = PAD / Math.max(bitmap.width, bitmap.height);
    const picture = new OffscreenCanvas(PAD, PAD), paper = picture.getContext("2d", { willReadFrequently: true });
    const [w, h] = [bitmap.width * scale, bitmap.height * scale], [x, y] = [(PAD - w) / 2, (PAD - h) / 2];
    paper.drawImage(bitmap, x, y, w, h);
    const image = paper.getImageData(0, 0, PAD, PAD), { data } = image;
    const grey = (i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3;
    const inside = (i) => data[4 * i + 3] > 127;
    const edge = Array.from({ length: PAD * PAD }, (_, i) => i).filter((i) => inside(i) && (
      i % PAD < x + 2 || i % PAD > x + w - 3 || Math.floor(i / PAD) < y + 2 || Math.floor(i / PAD) > y + h - 3));
    const ground = edge.length ? edge.map(grey).sort((a, b) => a - b)[edge.length >> 1] : 255;
    for (let i = 0; i < PAD * PAD; i++) {
      const ink = inside(i) ? clip((ground > 127 ? ground - grey(i) : grey(i) - ground) / Math.max(ground, 255 - ground), 0, 1) : 0;
      data.fill(255 * (1 - ink), 4 * i, 4 * i + 3);
      data[4 * i + 3] = 255;
    }
    paper.putImageData(image, 0, 0);
    strokes = [{ picture }];
    redraw();
  };
  const first = (list) => { const found = [...list ?? []].find(({ type }) => type.startsWith("image/")); if (found) load(found); };
  file.addEventListener("change", () => { first(file.files); file.value = ""; }); // the same file may come again
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => { event.preventDefault(); first(event.dataTransfer.files); });
  const closed = new AbortController();
  const edited = ({ target }) => target.isContentEditable || target.closest?.("textarea, input:not([type=range], [type=file], [type=checkbox], [type=button])");
  const pasted = (event) => { if ((root.checkVisibility?.() ?? true) && !edited(event)) first(event.clipboardData?.files); };
  document.addEventListener("paste", pasted, { signal: closed.signal });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, PAD, PAD);
  pen.lineCap = pen.lineJoin = "round";
  return { clear: () => { strokes = []; redraw(); }, load, close: () => closed.abort() };
}
