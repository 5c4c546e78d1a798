// Draws the maps of a report and answers to pointer and keyboard. All text goes through textContent.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const shorts = (text) => new Uint16Array(bytes(text).buffer);
  const STEPS = 65535; // places along the longer side; also a missing value
  const x = shorts(data.x);
  const y = shorts(data.y);
  const byId = (id) => document.getElementById(id);
  const tip = byId("tip");
  const status = byId("status");

  // A layer gives every observation the number of a colour; the last colour means missing.
  const layers = data.layers.map((layer) => {
    const numbers = layer.colors.length > 256 ? shorts : bytes;
    if (layer.codes) return { ...layer, codes: numbers(layer.codes) };
    const values = shorts(layer.values);
    const last = layer.colors.length - 1;
    const codes = Uint8Array.from(values, (value) =>
      value === STEPS ? last : Math.min(last - 1, Math.floor((value / 1000) * last)));
    return { ...layer, values, codes };
  });
  // Genes follow the other layers; the numbers of one are read when it is first shown.
  const firstGene = layers.length;
  for (const { codes, ...gene } of data.genes) {
    let read = null;
    layers.push({
      ...gene,
      colors: data.steps,
      get codes() { return (read ??= bytes(codes)); },
    });
  }
  const valueOf = (layer, index) => {
    if (layer.means) {
      const code = layer.codes[index];
      const last = data.steps.length - 2;
      if (code > last) return "missing";
      return (code === last ? "≥ " : "") + ((code / last) * layer.top).toFixed(2);
    }
    if (!layer.values) return layer.names[layer.codes[index]];
    return layer.values[index] === STEPS ? "missing" : (layer.values[index] / 1000).toFixed(3);
  };

  // The layer whose entries can be highlighted: with a gene, the domains.
  const keyOf = (number) => (number >= firstGene ? 0 : number);
  const state = { layer: 0, chosen: new Set(), image: true, opacity: 0.75 };

  class Panel {
    constructor(element, section, start) {
      this.element = element;
      this.room = element.closest(".panels");
      // A panel of one solution keeps its layer.
      this.own = element.dataset.layer === undefined ? null : Number(element.dataset.layer);
      this.section = section;
      this.start = start;
      this.end = start + section.n;
      [this.base, this.mark] = element.querySelectorAll("canvas");
      this.view = { zoom: 1, x: section.width / 2, y: section.height / 2 };
      this.at = -1;
      this.orders = [];
      if (section.image) {
        this.image = new Image();
        this.image.onload = () => this.redraw();
        this.image.src = section.image;
      }
      this.listen();
    }

    get layer() {
      return this.own ?? state.layer;
    }

    // Place of an observation on the canvas, in device pixels.
    place(index) {
      return [this.left + (x[index] / STEPS) * this.scale, this.top + (y[index] / STEPS) * this.scale];
    }

    fit() {
      const width = this.element.clientWidth;
      if (!width) return false;
      const ratio = window.devicePixelRatio || 1;
      const beside = panels.filter((panel) => panel.room === this.room);
      const alone = beside.filter((panel) => !panel.element.closest("figure").hidden).length === 1;
      const tallest = alone ? Math.max(280, 0.78 * window.innerHeight) : width;
      const shapes = alone ? [this.section] : data.sections;
      const shape = Math.max(...shapes.map((section) => section.height / section.width));
      const height = Math.round(Math.min(tallest, Math.max(0.45, shape) * width));
      for (const canvas of [this.base, this.mark]) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      this.ratio = ratio;
      return true;
    }

    project() {
      const { width, height } = this.base;
      const fitted = Math.min(width / this.section.width, height / this.section.height);
      this.scale = fitted * this.view.zoom;
      this.left = width / 2 - this.view.x * this.scale;
      this.top = height / 2 - this.view.y * this.scale;
    }

    // Rows of the section, sorted by colour: drawing changes the colour once for each.
    order() {
      const { codes, colors } = layers[this.layer];
      if (!this.orders[this.layer]) {
        const starts = new Uint32Array(colors.length + 1);
        for (let i = this.start; i < this.end; i++) starts[codes[i] + 1]++;
        for (let c = 0; c < colors.length; c++) starts[c + 1] += starts[c];
        const rows = new Uint32Array(this.section.n);
        const next = starts.slice();
        for (let i = this.start; i < this.end; i++) rows[next[codes[i]]++] = i;
        this.orders[this.layer] = { rows, starts };
      }
      return this.orders[this.layer];
    }

    redraw() {
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = 0;
        this.draw();
      });
    }

    draw() {
      if (this.element.closest("figure").hidden || !this.fit()) return;
      this.project();
      const context = this.base.getContext("2d");
      const withImage = this.image && this.image.complete && state.image;
      if (withImage) {
        const [left, top, width, height] = this.section.image_at;
        context.drawImage(this.image, this.left + left * this.scale, this.top + top * this.scale,
          width * this.scale, height * this.scale);
      }
      const { rows, starts } = this.order();
      const { colors } = layers[this.layer];
      const { names, codes } = layers[keyOf(this.layer)];
      // Domains that are chosen are highlighted in both solutions, under one name.
      const ours = this.own === null || keyOf(state.layer) === 0;
      const chosen = names && ours && state.chosen.size ? state.chosen : null;
      const missing = colors.length - 1;
      const sequence = [missing, ...Array(missing).keys()];
      const passes = chosen ? [false, true] : [true];
      for (const shown of passes) {
        context.globalAlpha = (withImage ? state.opacity : 1) * (shown ? 1 : 0.13);
        for (const code of sequence) {
          const all = rows.subarray(starts[code], starts[code + 1]);
          const some = chosen ? all.filter((row) => chosen.has(codes[row]) === shown) : all;
          this.spots(context, some, colors[code]);
        }
      }
      context.globalAlpha = 1;
      this.scaleBar(context);
      this.point();
    }

    spots(context, rows, color) {
      const { square, angle } = this.section;
      const size = Math.max(this.section.size * this.scale, 1.2 * this.ratio);
      const { width, height } = this.base;
      context.fillStyle = color;
      const small = size < 3;
      const stamp = small || (square && Math.abs(angle) < 1e-3) ? null : this.stamp(color, size);
      for (const row of rows) {
        const [left, top] = this.place(row);
        if (left < -size || top < -size || left > width + size || top > height + size) continue;
        if (stamp) {
          context.drawImage(stamp, left - stamp.width / 2, top - stamp.height / 2);
        } else if (small) {
          context.fillRect(left - size / 2, top - size / 2, size, size);
        } else { // whole pixels, so that neighbouring bins meet without a seam
          const [x0, y0] = [Math.round(left - size / 2), Math.round(top - size / 2)];
          context.fillRect(x0, y0, Math.round(left + size / 2) - x0, Math.round(top + size / 2) - y0);
        }
      }
    }

    // One spot, drawn once and then copied.
    stamp(color, size) {
      const stamp = document.createElement("canvas");
      stamp.width = stamp.height = Math.ceil(size * 1.42) + 2;
      const context = stamp.getContext("2d");
      context.fillStyle = color;
      context.translate(stamp.width / 2, stamp.height / 2);
      if (this.section.square) {
        context.rotate(this.section.angle);
        context.fillRect(-size / 2, -size / 2, size, size);
      } else {
        context.arc(0, 0, size / 2, 0, 2 * Math.PI);
        context.fill();
      }
      return stamp;
    }

    scaleBar(context) {
      const unit = this.section.micrometres;
      if (!unit) return;
      const longest = (this.base.width / this.scale) * unit / 4;
      const power = 10 ** Math.floor(Math.log10(longest));
      const length = power * Math.max(...[1, 2, 5].filter((step) => step * power <= longest));
      const wide = (length / unit) * this.scale;
      const gap = 12 * this.ratio;
      const text = length < 1000 ? `${length} µm` : `${length / 1000} mm`;
      context.font = `${12 * this.ratio}px system-ui, sans-serif`;
      const base = this.base.height - gap;
      context.fillStyle = "rgb(255 255 255 / 0.8)";
      const box = Math.max(wide, context.measureText(text).width) + gap;
      context.fillRect(gap / 2, base - 1.9 * gap, box, 2.4 * gap);
      context.fillStyle = "#1a1d21";
      context.fillRect(gap, base - 2 * this.ratio, wide, 2 * this.ratio);
      context.fillText(text, gap, base - 6 * this.ratio);
    }

    // Observations by square of a grid, so that the one under the pointer is found at once.
    grid() {
      if (this.squares) return this.squares;
      const n = Math.max(1, Math.min(256, Math.ceil(Math.sqrt(this.section.n / 4))));
      const square = (value) => Math.min(n - 1, Math.floor((value / (STEPS + 1)) * n));
      const lists = Array.from({ length: n * n }, () => []);
      for (let i = this.start; i < this.end; i++) lists[square(y[i]) * n + square(x[i])].push(i);
      this.squares = { n, square, lists };
      return this.squares;
    }

    nearest(px, py) {
      const qx = ((px - this.left) / this.scale) * STEPS;
      const qy = ((py - this.top) / this.scale) * STEPS;
      const reach = Math.max(this.section.size, 10 * this.ratio / this.scale) * STEPS;
      const { n, square, lists } = this.grid();
      const range = (middle) => [square(Math.max(0, middle - reach)), square(Math.max(0, middle + reach))];
      const [[left, right], [top, bottom]] = [range(qx), range(qy)];
      let best = -1;
      let least = reach * reach;
      for (let row = top; row <= bottom; row++) {
        for (let column = left; column <= right; column++) {
          for (const i of lists[row * n + column]) {
            const distance = (x[i] - qx) ** 2 + (y[i] - qy) ** 2;
            if (distance < least) [best, least] = [i, distance];
          }
        }
      }
      return best;
    }

    // The next observation to the right, left, below or above; the first one to begin with.
    step(across, down) {
      if (this.at < 0) return this.start;
      let best = this.at;
      let least = Infinity;
      for (let i = this.start; i < this.end; i++) {
        const [dx, dy] = [x[i] - x[this.at], y[i] - y[this.at]];
        const along = dx * across + dy * down;
        const aside = Math.abs(dx * down) + Math.abs(dy * across);
        if (along > 0 && along + 2 * aside < least) [best, least] = [i, along + 2 * aside];
      }
      return best;
    }

    lines(index) {
      const read = layers.filter((_, number) => number < firstGene || number === state.layer);
      const lines = read.map((layer) => `${layer.label}: ${valueOf(layer, index)}`);
      if (data.sections.length > 1) lines.push(`Section: ${this.section.name}`);
      return lines;
    }

    // Mark the observation that is read.
    point() {
      const context = this.mark.getContext("2d");
      context.clearRect(0, 0, this.mark.width, this.mark.height);
      if (this.at < 0) return;
      const [left, top] = this.place(this.at);
      const radius = Math.max((this.section.size / 2) * this.scale, 3 * this.ratio) + 2 * this.ratio;
      for (const [color, wide] of [["#ffffff", 4], ["#000000", 2]]) {
        context.beginPath();
        context.arc(left, top, radius, 0, 2 * Math.PI);
        context.strokeStyle = color;
        context.lineWidth = wide * this.ratio;
        context.stroke();
      }
    }

    read(index, { aloud = false } = {}) {
      if (index === this.at && !tip.hidden === index >= 0) return;
      this.at = index;
      this.point();
      tip.hidden = index < 0;
      if (index < 0) return;
      const name = document.createElement("strong");
      name.textContent = data.names[index];
      const rows = this.lines(index).map((line) => {
        const row = document.createElement("div");
        row.textContent = line;
        return row;
      });
      tip.replaceChildren(name, ...rows);
      const box = this.base.getBoundingClientRect();
      const [left, top] = this.place(index).map((value) => value / this.ratio);
      const { offsetWidth: width, offsetHeight: height } = tip;
      const right = box.left + left + 14 + width < window.innerWidth;
      const below = box.top + top + 14 + height < window.innerHeight;
      tip.style.left = `${Math.max(4, box.left + left + (right ? 14 : -14 - width))}px`;
      tip.style.top = `${Math.max(4, box.top + top + (below ? 14 : -14 - height))}px`;
      if (aloud) status.textContent = [data.names[index], ...this.lines(index)].join(", ");
    }

    // Zoom around a place of the canvas, its middle unless given.
    zoom(factor, px = this.base.width / 2, py = this.base.height / 2) {
      const zoom = Math.min(60, Math.max(1, this.view.zoom * factor));
      const [ux, uy] = [(px - this.left) / this.scale, (py - this.top) / this.scale];
      const scale = (this.scale / this.view.zoom) * zoom;
      this.view.zoom = zoom;
      this.view.x = ux + (this.base.width / 2 - px) / scale;
      this.view.y = uy + (this.base.height / 2 - py) / scale;
      this.keepInside();
    }

    reset() {
      this.view = { zoom: 1, x: this.section.width / 2, y: this.section.height / 2 };
      this.keepInside();
    }

    keepInside() {
      const { view, section } = this;
      if (view.zoom === 1) [view.x, view.y] = [section.width / 2, section.height / 2];
      view.x = Math.min(section.width, Math.max(0, view.x));
      view.y = Math.min(section.height, Math.max(0, view.y));
      this.element.style.touchAction = view.zoom > 1 ? "none" : "";
      this.redraw();
    }

    listen() {
      const { element } = this;
      const at = (event) => {
        const box = this.base.getBoundingClientRect();
        return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
      };
      let from = null;
      element.addEventListener("pointerdown", (event) => {
        from = at(event);
        if (this.view.zoom > 1) element.setPointerCapture(event.pointerId);
        this.read(this.nearest(...from));
      });
      element.addEventListener("pointermove", (event) => {
        const to = at(event);
        if (from && this.view.zoom > 1) {
          this.view.x -= (to[0] - from[0]) / this.scale;
          this.view.y -= (to[1] - from[1]) / this.scale;
          from = to;
          tip.hidden = true;
          this.keepInside();
        } else {
          this.read(this.nearest(...to));
        }
      });
      for (const type of ["pointerup", "pointercancel"]) element.addEventListener(type, () => { from = null; });
      element.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") this.read(-1);
      });
      element.addEventListener("dblclick", (event) => this.zoom(2, ...at(event)));
      element.addEventListener("wheel", (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 200), ...at(event));
      }, { passive: false });
      element.addEventListener("keydown", (event) => this.key(event));
      element.addEventListener("blur", () => this.read(-1));
    }

    key(event) {
      const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (steps[event.key]) this.read(this.step(...steps[event.key]), { aloud: true });
      else if (event.key === "+" || event.key === "=") this.zoom(1.5);
      else if (event.key === "-") this.zoom(1 / 1.5);
      else if (event.key === "0") this.reset();
      else if (event.key === "Escape") this.read(-1);
      else return;
      event.preventDefault();
    }
  }

  const starts = [0];
  for (const section of data.sections) starts.push(starts.at(-1) + section.n);
  const panels = [];
  for (const element of document.querySelectorAll(".panel")) {
    const number = Number(element.dataset.section);
    panels.push(new Panel(element, data.sections[number], starts[number]));
  }
  const redraw = () => panels.forEach((panel) => panel.redraw());

  // Show a layer of the map, its legend and what is highlighted of it.
  const radios = [...document.querySelectorAll("input[name=layer]")];
  const picker = byId("gene");
  const show = (number) => {
    if (keyOf(number) !== keyOf(state.layer)) state.chosen.clear();
    state.layer = number;
    radios.forEach((radio, layer) => { radio.checked = layer === number; });
    const isGene = number >= firstGene;
    // A gene of two domains stands in the list twice.
    const wanted = isGene ? String(number - firstGene) : "";
    if (picker && picker.value !== wanted) picker.value = wanted;
    for (const legend of document.querySelectorAll(".legend")) {
      legend.hidden = legend.dataset.layer !== (isGene ? "genes" : String(number));
      if (!isGene || legend.hidden) continue;
      legend.querySelector("h3").textContent = layers[number].label;
      legend.querySelector(".high").textContent = layers[number].top.toFixed(2);
      for (const mean of legend.querySelectorAll("[data-mean]")) {
        mean.textContent = layers[number].means[mean.dataset.mean].toFixed(2);
      }
    }
    for (const button of document.querySelectorAll("button[data-code]")) {
      const legend = button.closest(".legend");
      const layer = legend && legend.dataset.layer !== "genes" ? Number(legend.dataset.layer) : 0;
      const pressed = layer === keyOf(state.layer) && state.chosen.has(Number(button.dataset.code));
      button.setAttribute("aria-pressed", String(pressed));
    }
    redraw();
  };
  const toMap = () => byId("map").scrollIntoView();
  for (const radio of radios) {
    radio.addEventListener("change", () => show(Number(radio.value)));
    if (radio.checked && Number(radio.value)) show(Number(radio.value));
  }
  picker?.addEventListener("change", () => show(picker.value ? firstGene + Number(picker.value) : 0));
  for (const button of document.querySelectorAll("button[data-gene]")) {
    button.addEventListener("click", () => {
      show(firstGene + Number(button.dataset.gene));
      toMap();
    });
  }
  for (const button of document.querySelectorAll("button[data-code]")) {
    button.addEventListener("click", () => {
      const inLegend = button.closest(".legend");
      if (!inLegend && keyOf(state.layer)) show(0);
      const code = Number(button.dataset.code);
      if (!state.chosen.delete(code)) state.chosen.add(code);
      show(state.layer);
      if (!inLegend) toMap();
    });
  }
  const onChange = (id, type, change) => byId(id)?.addEventListener(type, (event) => {
    change(event.target);
    redraw();
  });
  onChange("image", "change", (input) => { state.image = input.checked; });
  onChange("opacity", "input", (input) => { state.opacity = input.value / 100; });
  onChange("section", "change", (input) => {
    const only = Number(input.value);
    panels.forEach(({ element }) => {
      element.closest("figure").hidden = only >= 0 && only !== Number(element.dataset.section);
    });
    document.querySelector(".panels").classList.toggle("single", only >= 0);
    tip.hidden = true;
  });
  byId("zoom-in").addEventListener("click", () => panels.forEach((panel) => panel.zoom(1.5)));
  byId("zoom-out").addEventListener("click", () => panels.forEach((panel) => panel.zoom(1 / 1.5)));
  byId("zoom-reset").addEventListener("click", () => panels.forEach((panel) => panel.reset()));

  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  const room = document.querySelector(".panels");
  let width = room.clientWidth;
  new ResizeObserver(() => {
    if (room.clientWidth === width) return;
    width = room.clientWidth;
    redraw();
  }).observe(room);
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  panels.forEach((panel) => panel.draw());
  performance.mark("drawn");
})();
