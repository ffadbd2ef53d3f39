// A map of codes on a canvas: points coloured by class, the decoded picture under the mouse, a click to load a point.
// Used by the widget (LatentMap: the kernel decodes) and by the exported page (the browser decodes). Without either,
// the atlas, a grid of pictures that was decoded beforehand, answers.

const SIDE = 140, MARGIN = 14;

/** Draw a map into `root`.
 *  data: {xy: Float32Array (N·2), labels: Uint8Array (N), names, colours, extent: [x0, x1, y0, y1],
 *         atlas: URL of a PNG of grid × grid pictures, first row at y1, grid, width, height}
 *  on: {hover(x, y), click(index)}; where there is no hover, or it returns false, the atlas answers.
 *  Returns {show(url), say(words), select(i)}. */
export function latentMap(root, data, on = {}) {
  const { xy, labels, colours, names, extent: [x0, x1, y0, y1], grid, width = 600, height = 440 } = data;
  root.innerHTML = "";
  root.style.cssText = "display: flex; gap: 12px; flex-wrap: wrap; font: 12px system-ui, sans-serif";
  const canvas = document.createElement("canvas");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `map of ${labels.length} codes`);
  canvas.style.cssText = `width: ${width}px; height: ${height}px; cursor: crosshair; background: #fff; border: 1px solid #bbb`;
  const side = document.createElement("div");
  side.style.cssText = `width: ${SIDE}px`;
  const picture = document.createElement("img");
  picture.className = "latent-map-picture";
  picture.alt = "decoded picture of the point under the mouse";
  picture.style.cssText = `width: ${SIDE - 2}px; height: ${SIDE - 2}px; image-rendering: pixelated; background: #fff; border: 1px solid #bbb`;
  const text = document.createElement("div");
  text.className = "latent-map-text";
  text.style.cssText = "min-height: 3.2em; line-height: 1.4; margin: 4px 0 8px";
  text.textContent = "move the mouse over the map";
  const legend = document.createElement("div");
  legend.style.cssText = "line-height: 1.6; columns: 2";
  names.forEach((name, i) => {
    const line = document.createElement("div");
    const dot = document.createElement("span");
    dot.style.cssText = `display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; background: ${colours[i]}`;
    line.append(dot, name);
    legend.append(line);
  });
  side.append(picture, text, legend);
  root.append(canvas, side);

  const px = (x) => MARGIN + (x - x0) / (x1 - x0) * (width - 2 * MARGIN);
  const py = (y) => MARGIN + (y1 - y) / (y1 - y0) * (height - 2 * MARGIN);
  const fromPx = (u) => x0 + (u - MARGIN) / (width - 2 * MARGIN) * (x1 - x0);
  const fromPy = (v) => y1 - (v - MARGIN) / (height - 2 * MARGIN) * (y1 - y0);

  // the points are drawn once, and copied below the cursor's ring at each move
  const points = document.createElement("canvas");
  points.width = canvas.width;
  points.height = canvas.height;
  const brush = points.getContext("2d");
  brush.scale(ratio, ratio);
  brush.globalAlpha = 0.65;
  for (let i = 0; i < labels.length; i++) {
    brush.fillStyle = colours[labels[i]];
    brush.beginPath();
    brush.arc(px(xy[2 * i]), py(xy[2 * i + 1]), 2.4, 0, 7);
    brush.fill();
  }
  const pen = canvas.getContext("2d");
  let selected = -1, cursor = null;
  const ring = (u, v, r, colour) => {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(u, v, r, 0, 7);
    pen.stroke();
  };
  const draw = () => {
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(points, 0, 0);
    pen.scale(ratio, ratio);
    if (selected >= 0) ring(px(xy[2 * selected]), py(xy[2 * selected + 1]), 7, "#000");
    if (cursor) ring(cursor[0], cursor[1], 4, "#444");
  };

  const nearest = (u, v, within) => {
    let best = -1, least = within * within;
    for (let i = 0; i < labels.length; i++) {
      const d = (px(xy[2 * i]) - u) ** 2 + (py(xy[2 * i + 1]) - v) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  };

  const atlas = new Image();
  atlas.addEventListener("load", () => { if (!picture.getAttribute("src")) fromAtlas((x0 + x1) / 2, (y0 + y1) / 2); });
  if (data.atlas) atlas.src = data.atlas;
  const cell = document.createElement("canvas");
  cell.width = cell.height = 28;
  const fromAtlas = (x, y) => {
    if (!atlas.complete || !atlas.naturalWidth) return;
    const clamp = (k) => Math.max(0, Math.min(grid - 1, Math.round(k)));
    const column = clamp((x - x0) / (x1 - x0) * (grid - 1)), row = clamp((y1 - y) / (y1 - y0) * (grid - 1));
    cell.getContext("2d").drawImage(atlas, 28 * column, 28 * row, 28, 28, 0, 0, 28, 28);
    picture.src = cell.toDataURL();
  };

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("mousemove", (event) => {
    cursor = at(event);
    const [u, v] = cursor, x = fromPx(u), y = fromPy(v), i = nearest(u, v, 8);
    text.textContent = `(${x.toFixed(2)}, ${y.toFixed(2)})` + (i >= 0 ? `: near a ${names[labels[i]]}` : "");
    draw();
    if (!on.hover || on.hover(x, y) === false) fromAtlas(x, y);
  });
  canvas.addEventListener("mouseleave", () => { cursor = null; draw(); });
  canvas.addEventListener("click", (event) => {
    const i = nearest(...at(event), 12);
    if (i < 0) return;
    selected = i;
    text.textContent = `loaded a ${names[labels[i]]}`;
    draw();
    if (on.click) on.click(i);
  });
  draw();
  return {
    show: (url) => { picture.src = url; },
    say: (words) => { text.textContent = words; },
    select: (i) => { selected = i; draw(); },
  };
}

// The widget: anywidget calls render with the Python side's traits as a model. One question at a time is sent to the
// kernel; where it does not answer, because it is busy or gone, the atlas does.
const PATIENCE = 400; // ms

function render({ model, el }) {
  const bytes = (name) => { const v = model.get(name); return v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength); };
  const url = (name) => URL.createObjectURL(new Blob([bytes(name)], { type: "image/png" }));
  const root = document.createElement("div");
  el.append(root);
  let asked = 0, silent = false, next = null, current = null;
  const ask = (x, y) => { asked = performance.now(); model.send({ hover: [x, y] }); };
  const map = latentMap(root, {
    xy: new Float32Array(bytes("xy")), labels: new Uint8Array(bytes("labels")), names: model.get("names"),
    colours: model.get("colours"), extent: model.get("extent"), grid: model.get("grid"), atlas: url("atlas"),
  }, {
    hover: (x, y) => {
      if (asked && performance.now() - asked < PATIENCE) next = [x, y];
      else {
        silent = asked > 0;
        next = null; // it was asked for before this place
        ask(x, y);
      }
      return !silent;
    },
    click: (i) => model.send({ click: i }),
  });
  const answered = (message, buffers) => {
    asked = 0;
    silent = false;
    if (message.error) { map.say(message.error); next = null; }
    if (!message.picture) return;
    if (current) URL.revokeObjectURL(current);
    current = URL.createObjectURL(new Blob([buffers[0]], { type: "image/png" }));
    map.show(current);
    if (next) { const [x, y] = next; next = null; ask(x, y); }
  };
  model.on("msg:custom", answered);
  return () => { model.off("msg:custom", answered); if (current) URL.revokeObjectURL(current); };
}

export default { render };
