// Runs model.onnx on an image or on the camera, and draws its predictions. The file itself resizes and normalises.

const MAX_PIXELS = 4e6; // larger images are shrunk: masks of all pixels are in memory
const INFERNO = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // from far to near
const byId = (id) => document.getElementById(id);
const image = new OffscreenCanvas(1, 1); // upright, as the model sees it
const pen = image.getContext("2d", { alpha: false, willReadFrequently: true });
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
let session, outputs, milliseconds, camera, scale = 1;

const header = await (await fetch("model.json")).json();
const heads = Object.entries(header.heads).map(([name, { classes }]) => {
  return { name, classes, prefix: Object.keys(header.heads).length > 1 ? `${name}/` : "" };
});
const sliders = Object.entries(header.postprocess.thresholds).map(([head, score]) => {
  const label = document.createElement("label");
  label.innerHTML = 'score from <input type="range" min="0" max="1" step="any"> <output></output>';
  if (heads.length > 1) label.prepend(`${head}: `);
  const [slider, text] = label.querySelectorAll("input, output");
  slider.oninput = () => (text.value = Number(slider.value).toFixed(2));
  slider.onchange = update;
  slider.value = score;
  slider.oninput();
  byId("thresholds").append(label);
  return slider;
});

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

/** Keeps an upright image, of at most `MAX_PIXELS`. source: an ImageBitmap or a video. */
function keep(source, width, height) {
  scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  [image.width, image.height] = [width, height].map((side) => Math.max(1, Math.round(scale * side)));
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, image.width, image.height);
}

/** The inputs of the file: the image as planes (1, 3, height, width), and the lowest scores. */
function inputs() {
  const { width, height } = image;
  const area = width * height;
  const pixels = pen.getImageData(0, 0, width, height).data;
  const planes = new Uint8Array(3 * area);
  for (let i = 0; i < area; i++) {
    for (let channel = 0; channel < 3; channel++) planes[channel * area + i] = pixels[4 * i + channel];
  }
  const values = {
    images: new ort.Tensor("uint8", planes, [1, 3, height, width]),
    thresholds: new ort.Tensor("float32", Float32Array.from(sliders, (slider) => slider.value), [sliders.length]),
    original_size: new ort.Tensor("int64", [height, width], [2]),
    focal: new ort.Tensor("float32", [scale * byId("focal").control.valueAsNumber], [1]),
  };
  return Object.fromEntries(session.inputNames.map((name) => [name, values[name]]));
}

let running = false, waiting = false;
/** Predicts the image again; changes during a prediction cause one more. */
async function update() {
  waiting = true;
  if (running || !session || image.width * image.height <= 1) return;
  if (session.inputNames.includes("focal") && !(byId("focal").control.valueAsNumber > 0)) {
    return say("Type the camera's focal length in pixels of the image: metres depend on it.", true);
  }
  running = true;
  try {
    while (waiting && session) {
      waiting = false;
      const start = performance.now();
      outputs = await session.run(inputs());
      milliseconds = performance.now() - start;
      draw();
    }
  } catch (error) {
    fail(error);
  } finally {
    running = false;
  }
}

/** Draws the image, then maps, masks and boxes, and lists them. */
function draw() {
  const { width, height } = image;
  const view = Object.assign(byId("view"), { width, height }), context = view.getContext("2d");
  context.drawImage(image, 0, 0);
  const rows = heads.flatMap((head) => {
    const values = Object.entries(outputs).filter(([name]) => name.startsWith(head.prefix));
    const named = Object.fromEntries(values.map(([name, value]) => [name.slice(head.prefix.length), value]));
    return drawHead(context, named, head.classes);
  });
  byId("list").replaceChildren(
    ...rows.map(({ name, value, color }) => {
      const row = document.createElement("tr");
      row.innerHTML = "<td><i></i></td><td></td><td></td>";
      row.querySelector("i").style.background = color ?? "none";
      [row.cells[1].textContent, row.cells[2].textContent] = [name, value];
      return row;
    }),
  );
  window.predictions = Object.fromEntries(Object.entries(outputs).map(([name, { data, dims }]) => [name, { data, dims }]));
  say(`${milliseconds.toFixed(0)} ms on ${byId("backend").value}, ${width} x ${height} pixels`);
}

/** Draws the outputs of a head. Returns the rows of the list. */
function drawHead(context, values, classes) {
  const rgb = (i) => classes[i]?.color ?? [128, 128, 128], css = (color) => `rgb(${color.join(" ")})`;
  const rows = [], depth = values.depth ?? values.inverse_depth;
  if (depth) {
    const [low, high] = range(depth.data), unit = values.depth ? " m" : " (relative)";
    paint(context, (i) => inferno((values.depth ? high - depth.data[i] : depth.data[i] - low) / (high - low)));
    rows.push(["nearest", values.depth ? low : high], ["farthest", values.depth ? high : low]);
    return rows.map(([name, value]) => ({ name, value: value.toFixed(2) + unit }));
  }
  const map = values.panoptic ?? values.semantic;
  if (map) {
    const divisor = values.panoptic ? 1000 : 1, counts = new Map();
    for (const value of map.data) counts.set(value, (counts.get(value) ?? 0) + 1);
    const color = (value) => shade(rgb(Math.floor(value / divisor)), values.panoptic ? value % 1000 : 0);
    paint(context, (i) => (map.data[i] < 0 ? null : color(map.data[i])));
    const labels = [...counts].filter(([value]) => value >= 0).sort((a, b) => b[1] - a[1]);
    return labels.map(([value, count]) => ({
      name: classes[Math.floor(value / divisor)]?.name ?? String(value),
      value: `${((100 * count) / map.data.length).toFixed(1)} %`,
      color: css(color(value)),
    }));
  }
  if (values.class_scores) {
    const best = [...values.class_scores.data.entries()].sort((a, b) => b[1] - a[1]).slice(0, 5);
    return best.map(([i, score]) => ({ name: classes[i].name, value: score.toFixed(2), color: css(rgb(i)) }));
  }
  const scores = values.scores?.data ?? [], area = image.width * image.height;
  const colors = [...scores].map((_, i) => shade(rgb(Number(values.labels.data[i])), values.masks ? i : 0));
  if (values.masks) {
    const objects = new Int32Array(area).fill(-1); // the best object of each pixel
    for (let k = scores.length - 1; k >= 0; k--) {
      for (let i = 0; i < area; i++) if (values.masks.data[k * area + i]) objects[i] = k;
    }
    paint(context, (i) => colors[objects[i]]);
  }
  for (let k = scores.length - 1; k >= 0; k--) {
    const color = css(colors[k]), name = classes[Number(values.labels.data[k])].name;
    if (values.boxes) drawBox(context, values.boxes.data.slice(4 * k, 4 * k + 4), color, `${name} ${scores[k].toFixed(2)}`);
    rows.unshift({ name, value: scores[k].toFixed(2), color });
  }
  return rows;
}

function drawBox(context, [left, top, right, bottom], color, text) {
  const size = Math.max(11, Math.round(Math.max(image.width, image.height) / 55));
  Object.assign(context, { strokeStyle: color, fillStyle: color, lineWidth: size / 6, font: `${size}px sans-serif` });
  context.strokeRect(left, top, right - left, bottom - top);
  const y = Math.max(0, top - 1.3 * size);
  context.fillRect(left, y, context.measureText(text).width + 0.4 * size, 1.3 * size);
  context.fillStyle = brightness(color) > 140 ? "black" : "white";
  context.fillText(text, left + 0.2 * size, y + size);
}

/** Blends a colour over each pixel. color: of pixel i, or nothing. */
function paint(context, color) {
  const pixels = context.getImageData(0, 0, image.width, image.height), opacity = byId("opacity").valueAsNumber;
  for (let i = 0; i < image.width * image.height; i++) {
    color(i)?.forEach((level, c) => (pixels.data[4 * i + c] += opacity * (level - pixels.data[4 * i + c])));
  }
  context.putImageData(pixels, 0, 0);
}

const brightness = (css) => css.match(/\d+/g).reduce((sum, level, i) => sum + level * [0.3, 0.59, 0.11][i], 0);
const shade = (color, i) => color.map((level, c) => Math.round((level + ((i * (37 + 16 * c)) % 97)) % 256));
const range = (data) => data.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
function inferno(share) {
  const position = Math.min(Math.max(share || 0, 0), 1) * (INFERNO.length - 1), i = Math.min(Math.floor(position), 3);
  return INFERNO[i].map((level, c) => level + (position - i) * (INFERNO[i + 1][c] - level));
}

async function choose(file) {
  if (!file) return;
  stopCamera();
  try {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" }; // upright, as densevit reads it
    const bitmap = await createImageBitmap(file, options);
    keep(bitmap, bitmap.width, bitmap.height);
    await update();
  } catch {
    say(`${file.name} is not an image that this browser reads.`, true);
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = undefined;
  byId("camera").textContent = "Open the camera";
}

byId("camera").onclick = async () => {
  if (camera) return stopCamera();
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(`No camera: ${error.message}. Browsers open it on https:// and localhost only.`, true);
  }
  byId("camera").textContent = "Stop the camera";
  video.srcObject = camera;
  await video.play();
  while (camera) {
    keep(video, video.videoWidth, video.videoHeight);
    await update();
    await new Promise(requestAnimationFrame);
  }
};
byId("file").onchange = (event) => choose(event.target.files[0]);
byId("opacity").oninput = () => outputs && !running && draw();
byId("focal").onchange = update;
document.ondragover = (event) => event.preventDefault();
document.ondragleave = () => byId("drop").classList.remove("over");
byId("drop").ondragenter = () => byId("drop").classList.add("over");
document.ondrop = (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
};

/** Opens the model with WebGPU or WASM, and predicts the image again. */
async function open() {
  const name = byId("backend").value;
  say(`Loading the model on ${name} ...`);
  session = undefined;
  try {
    session = await ort.InferenceSession.create("model.onnx", { executionProviders: [name.toLowerCase()] });
    byId("focal").hidden = !session.inputNames.includes("focal");
    say("Ready.");
  } catch (error) {
    return fail(error);
  }
  await update();
}

/** Shows why the model does not run, and tries WASM in place of WebGPU. */
function fail(error) {
  const name = byId("backend").value;
  say(`The model does not run on ${name}: ${error.message ?? error}`, true);
  if (name === "WASM") return;
  console.warn(error);
  byId("backend").value = "WASM";
  setTimeout(open);
}

const backends = (await navigator.gpu?.requestAdapter()) ? ["WebGPU", "WASM"] : ["WASM"];
byId("backend").append(...backends.map((name) => new Option(name)));
byId("backend").onchange = open;
await open();
