// Detects objects in an image with a file of `densevit export`, and draws them with the names of their classes.
//
//     densevit export runs/detr_swin --resize --postprocess --out model.onnx --json > model.json
//     npm install --ignore-scripts
//     node detect.js model.onnx model.json ../coffee.jpg drawn.png
//
// Prints one JSON object per detected object: class, score and box, in pixels of the image (left, top, right, bottom).

import { readFile } from "node:fs/promises";
import ort from "onnxruntime-node";
import sharp from "sharp";

const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000"];

/** Reads an image upright, as RGB: rows of pixels, three bytes each. */
async function readImage(path) {
  const image = sharp(path).rotate().removeAlpha().toColourspace("srgb");
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height };
}

/** The input of the file: uint8, (1, 3, height, width), one plane per colour. */
function tensorOf({ data, width, height }) {
  const area = width * height;
  const planes = new Uint8Array(3 * area);
  for (let i = 0; i < area; i++) {
    for (let colour = 0; colour < 3; colour++) planes[colour * area + i] = data[3 * i + colour];
  }
  return new ort.Tensor("uint8", planes, [1, 3, height, width]);
}

/** The objects, best first. The file removes duplicates, and objects with scores below the thresholds of their heads. */
async function detect(session, classesByHead, thresholds, image) {
  const lowest = Float32Array.from(Object.values(thresholds));
  const outputs = await session.run({
    images: tensorOf(image),
    thresholds: new ort.Tensor("float32", lowest, [lowest.length]),
  });
  const objects = [];
  for (const [head, names] of Object.entries(classesByHead)) {
    const prefix = `${head}/boxes` in outputs ? `${head}/` : ""; // a file with several heads has HEAD/boxes
    if (!(`${prefix}boxes` in outputs)) continue;
    const [boxes, scores, labels] = ["boxes", "scores", "labels"].map((key) => outputs[prefix + key].data);
    scores.forEach((score, i) => {
      objects.push({ class: names[Number(labels[i])], score, box: [...boxes.slice(4 * i, 4 * i + 4)] });
    });
  }
  return objects;
}

/** Draws boxes and names over the image, the best last. */
async function draw({ data, width, height }, objects, path) {
  const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  const size = Math.max(12, Math.round(Math.max(width, height) / 50));
  const colours = new Map();
  const shapes = objects.toReversed().map(({ class: name, score, box: [left, top, right, bottom] }) => {
    if (!colours.has(name)) colours.set(name, COLOURS[colours.size % COLOURS.length]);
    const colour = colours.get(name);
    const label = `${escaped(name)} ${score.toFixed(2)}`;
    const y = Math.max(0, top - 1.3 * size);
    return `
      <rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"
            fill="none" stroke="${colour}" stroke-width="${size / 6}"/>
      <rect x="${left}" y="${y}" width="${0.62 * size * (name.length + 5)}" height="${1.3 * size}" fill="${colour}"/>
      <text x="${left + 0.2 * size}" y="${y + size}" font-family="sans-serif" font-size="${size}"
            fill="white">${label}</text>`;
  });
  const overlay = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">${shapes.join("")}</svg>`;
  const pixels = sharp(data, { raw: { width, height, channels: 3 } });
  await pixels.composite([{ input: Buffer.from(overlay) }]).toFile(path);
}

const [model, description, input, output] = process.argv.slice(2);
if (!output) {
  console.error("node detect.js MODEL.onnx MODEL.json IMAGE DRAWN");
  process.exit(2);
}
const { classes, thresholds } = JSON.parse(await readFile(description, "utf8"));
const session = await ort.InferenceSession.create(await readFile(model));
const image = await readImage(input);
const objects = await detect(session, classes, thresholds, image);
for (const object of objects) console.log(JSON.stringify(object));
await draw(image, objects, output);
