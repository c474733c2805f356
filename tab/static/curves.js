// The curves beneath the lanes of a picture (picture.js), and the marks above them.

import { CURVE, GAP, LEFT, format, layerStyle } from "./view.js";

/** Marks of relevant steps, rewards and events above; live memories and value below. */
export function paintCurves(picture, draw, top) {
  const { about, tile: columns } = picture.episode;
  const most = Math.max(1, ...about.layers.map((layer) => layer.most_live));
  const [low, high] = about.value_range ?? [0, 1];
  const [live, worth] = [top, top + CURVE + GAP];
  draw.save();
  draw.beginPath();
  draw.rect(LEFT, 0, picture.width, picture.canvas.clientHeight);
  draw.clip();
  const { lines, value } = readCurves(picture, about.layers.length, columns, (...mark) => paintMarks(picture, draw, ...mark));
  for (const number of picture.layers) {
    line(draw, lines[number], layerStyle(picture.theme, number), (v) => live + CURVE - (v / most) * (CURVE - 3));
  }
  const scale = (CURVE - 4) / Math.max(high - low, 1e-6);
  line(draw, value, { color: picture.ink, dash: [], width: 1.5 }, (v) => worth + CURVE - 2 - (v - low) * scale);
  draw.restore();
  caption(picture, draw, "live", `${most}`, "0", live);
  caption(picture, draw, about.value_name.split(" ")[0], about.value_range ? format(high) : "", about.value_range ? format(low) : "", worth);
}

/** Points x, y, x, y, ... of each layer's live memories and of the value in view; calls `mark` for each column. */
function readCurves(picture, layers, columns, mark) {
  const wide = 2 ** picture.level;
  const { from: first, to: last } = picture.window;
  const found = { lines: Array.from({ length: layers }, () => []), value: [] };
  picture.eachTile(
    (index, from) => {
      const curves = picture.episode.cells(null, picture.level, index, "");
      if (!curves) {
        picture.missing++;
        return;
      }
      const row = (number, column) => curves[number * columns + column];
      const start = Math.max(0, Math.floor((first - from) / wide) - 1);
      const stop = Math.min(columns, Math.ceil((last - from) / wide) + 1);
      for (let column = start; column < stop; column++) {
        if (Number.isNaN(row(layers + 2, column))) break;
        const x = picture.x(from + (column + 0.5) * wide);
        found.lines.forEach((line, number) => line.push(x, row(number, column)));
        found.value.push(x, row(layers, column));
        const [reward, relevant, event] = [1, 2, 3].map((place) => row(layers + place, column));
        mark(x, (wide / (last - first)) * picture.width, reward, relevant > 0, event > 0);
      }
    },
    (index) => picture.episode.cells(null, picture.level, index, ""),
  );
  return found;
}

/** A bar for a relevant step; a dot for a reward above 0, a ring for one below, a square for an event without one. */
function paintMarks(picture, draw, x, width, reward, relevant, event) {
  const wide = Math.max(width, 2);
  if (relevant) {
    draw.fillStyle = picture.relevantInk;
    draw.fillRect(x - wide / 2, 2, wide, 6);
  }
  if (reward) {
    draw.beginPath();
    draw.arc(x, 13, 3, 0, 7);
    Object.assign(draw, { fillStyle: picture.rewardInk, strokeStyle: picture.ink });
    if (reward > 0) draw.fill();
    else draw.stroke();
  } else if (event) {
    draw.fillStyle = picture.faint;
    draw.fillRect(x - 3, 10, 6, 6);
  }
}

function line(draw, points, { color, dash, width }, height) {
  Object.assign(draw, { strokeStyle: color, lineWidth: width });
  draw.setLineDash(dash);
  draw.beginPath();
  for (let i = 0; i < points.length; i += 2) {
    if (!Number.isNaN(points[i + 1])) draw.lineTo(points[i], height(points[i + 1]));
  }
  draw.stroke();
  draw.setLineDash([]);
  draw.lineWidth = 1;
}

function caption(picture, draw, name, high, low, top) {
  draw.textAlign = "right";
  draw.textBaseline = "middle";
  draw.fillStyle = picture.ink;
  draw.fillText(name, LEFT - 8, top + CURVE / 2);
  draw.fillStyle = picture.faint;
  draw.fillText(high, LEFT - 8, top + 5);
  draw.fillText(low, LEFT - 8, top + CURVE - 4);
  draw.fillRect(LEFT, top + CURVE, picture.width, 0.5);
}
