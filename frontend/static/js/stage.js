// The two images on the light-table: their size on the pixel grid, and a zoom that moves both together.

const LARGEST_PX = 960;
const SMALLEST_PX = 64;
const PIXEL_ART_UP_TO = 128;
const FARTHEST = 1;
const CLOSEST = 16;
const STEP = 1.5;
const NUDGE = 0.15; // of what is seen
const SWIPE_PX = 60;
const DRAG_PX = 4;
const WHEEL = 0.002;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Stage {
  /**
   * @param {HTMLElement} area
   * @param {{onSwipe: (side: "left"|"right", event: Event) => void, onZoom: (text: string) => void}} hooks
   */
  constructor(area, hooks) {
    this.area = area;
    this.hooks = hooks;
    this.frames = [...area.querySelectorAll(".frame")];
    this.images = [];
    this.zoom = FARTHEST;
    this.centre = { x: 0.5, y: 0.5 }; // the point of both images that is in the middle of their frames
    this.side = 0; // edge of a frame in CSS pixels
    addEventListener("resize", () => this.fit());
    this.#wirePointers();
    this.#wireButtons();
  }

  get zoomed() {
    return this.zoom > FARTHEST;
  }

  /** Put a decoded pair on the table, whole. */
  show(left, right) {
    this.images = [left, right];
    this.frames.forEach((frame, side) => frame.replaceChildren(this.images[side]));
    this.zoom = FARTHEST;
    this.centre = { x: 0.5, y: 0.5 };
    this.fit();
  }

  /** Whole factors in device pixels, so that every pixel of a small image is the same square on any screen. */
  fit() {
    const [first] = this.images;
    if (!first?.naturalWidth) return;
    const pair = this.frames[0].closest("[data-pair]");
    const style = getComputedStyle(this.area);
    const wide = (pair.clientWidth - parseFloat(getComputedStyle(pair).columnGap)) / 2;
    const high = this.area.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const room = clamp(Math.min(wide, high), SMALLEST_PX, LARGEST_PX);
    this.pixelArt = first.naturalWidth <= PIXEL_ART_UP_TO;
    this.factor = Math.floor((room * devicePixelRatio) / first.naturalWidth); // device pixels a pixel
    this.side = this.factor >= 1 ? (this.factor * first.naturalWidth) / devicePixelRatio : room;
    this.frames.forEach((frame, side) => {
      const image = this.images[side];
      const tall = (this.side * image.naturalHeight) / image.naturalWidth;
      for (const box of [frame, image]) {
        box.style.width = `${this.side}px`;
        box.style.height = `${tall}px`;
      }
      image.classList.toggle("pixels", this.pixelArt);
    });
    this.#place();
  }

  in() {
    this.zoomTo(this.zoom * STEP);
  }

  out() {
    this.zoomTo(this.zoom / STEP);
  }

  reset() {
    this.zoomTo(FARTHEST);
  }

  /** Zoom so that the point under (u, v), in shares of a frame, stays where it is. */
  zoomTo(zoom, u = 0.5, v = 0.5) {
    const before = this.#scale();
    this.zoom = clamp(zoom, FARTHEST, CLOSEST);
    if (this.zoom < 1.02) this.zoom = FARTHEST;
    const after = this.#scale();
    this.centre.x += (u - 0.5) * (1 / before - 1 / after);
    this.centre.y += (v - 0.5) * (1 / before - 1 / after);
    this.#place();
  }

  /** Move what is seen by shares of a frame. */
  pan(du, dv) {
    const scale = this.#scale();
    this.centre.x += du / scale;
    this.centre.y += dv / scale;
    this.#place();
  }

  nudge(dx, dy) {
    this.pan(dx * NUDGE, dy * NUDGE);
  }

  /** How much larger than fitted; for pixel art a ratio of whole factors. */
  #scale() {
    if (!this.pixelArt || this.factor < 1) return this.zoom;
    return Math.max(this.factor, Math.round(this.factor * this.zoom)) / this.factor;
  }

  #place() {
    if (this.images.length === 0 || !this.side) return;
    const scale = this.#scale();
    const margin = 0.5 / scale;
    this.centre.x = clamp(this.centre.x, margin, 1 - margin);
    this.centre.y = clamp(this.centre.y, margin, 1 - margin);
    for (const image of this.images) {
      const tall = (this.side * image.naturalHeight) / image.naturalWidth;
      const x = onGrid(this.side * (0.5 - this.centre.x * scale));
      const y = onGrid(tall * (0.5 - this.centre.y * scale));
      image.style.transform = scale > 1 ? `translate(${x}px, ${y}px) scale(${scale})` : "";
    }
    this.area.classList.toggle("zoomed", this.zoomed);
    this.hooks.onZoom(`${scale < 10 ? Math.round(scale * 10) / 10 : Math.round(scale)}×`);
  }

  #shareOf(event) {
    const frame = this.frames.find((each) => each.contains(event.target)) ?? this.frames[0];
    const box = frame.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp((event.clientY - box.top) / box.height, 0, 1)];
  }

  #wireButtons() {
    for (const button of this.area.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this[button.dataset.zoom]());
    }
    this.area.querySelector("[data-pair]").addEventListener("wheel", (event) => {
      event.preventDefault();
      // a pinch on a trackpad comes as a wheel with ctrl, in smaller steps
      this.zoomTo(this.zoom * Math.exp(-event.deltaY * WHEEL * (event.ctrlKey ? 5 : 1)), ...this.#shareOf(event));
    }, { passive: false });
  }

  #wirePointers() {
    const down = new Map();
    let start = null; // of a single finger or the mouse
    let moved = false; // what follows is no click
    let pinch = null;

    const between = () => {
      const [a, b] = [...down.values()];
      return { distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    };
    const end = (event) => {
      if (!down.delete(event.pointerId)) return;
      pinch = null;
      if (down.size > 0) {
        start = null; // the finger that stays is the rest of a pinch
        return;
      }
      const from = start;
      start = null;
      if (!from || from.type === "mouse" || this.zoomed || event.type === "pointercancel") return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (Math.abs(dx) < SWIPE_PX || Math.abs(dx) < 2 * Math.abs(dy)) return;
      moved = true;
      this.hooks.onSwipe(dx < 0 ? "left" : "right", event);
    };

    this.area.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || event.target.closest("[data-zoomer], [data-finish]")) return;
      if (down.size === 0) moved = false;
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      start = down.size === 1 ? { x: event.clientX, y: event.clientY, type: event.pointerType } : null;
      if (down.size === 2) {
        pinch = between();
        moved = true;
      }
    });
    addEventListener("pointermove", (event) => {
      const before = down.get(event.pointerId);
      if (!before) return;
      const now = { x: event.clientX, y: event.clientY };
      down.set(event.pointerId, now);
      if (pinch && down.size === 2) {
        const next = between();
        this.pan((pinch.x - next.x) / this.side, (pinch.y - next.y) / this.side);
        this.zoomTo(this.zoom * (next.distance / Math.max(1, pinch.distance)), ...this.#shareOf(event));
        pinch = next;
      } else if (down.size === 1 && this.zoomed && start) {
        if (Math.hypot(now.x - start.x, now.y - start.y) > DRAG_PX) moved = true;
        if (moved) this.pan((before.x - now.x) / this.side, (before.y - now.y) / this.side);
      }
    });
    // left to itself, Chromium takes a swipe for a fling that the next tap stops, and swallows that tap
    this.area.addEventListener("touchmove", (event) => {
      if (down.size > 0) event.preventDefault();
    }, { passive: false });
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
    this.area.addEventListener("click", (event) => {
      if (!moved) return;
      moved = false;
      event.preventDefault();
      event.stopPropagation();
    }, { capture: true });
  }
}

function onGrid(length) {
  return Math.round(length * devicePixelRatio) / devicePixelRatio;
}
