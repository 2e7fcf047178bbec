"use strict";
/* Sound: one audio element for the whole page, and the pictures of the clips, along which it moves a cursor. */

class Player {
  constructor(audio) {
    this.audio = audio;
    this.clip = null;
    this.failed = new Set();
    for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, () => this.show());
    audio.addEventListener("seeked", () => this.moveCursors());
    audio.addEventListener("error", () => this.fail());
  }

  get isPlaying() {
    return !this.audio.paused && !this.audio.ended;
  }

  /** Play a clip from a place on, in seconds; without one from where it was left, or its beginning. */
  play(clip, from = null) {
    if (!clip?.src) return;
    if (this.clip !== clip) this.load(clip);
    if (from !== null) this.audio.currentTime = from;
    // A clip that can't be played is told of by the element's error event; a change of clip meanwhile is none.
    this.audio.play().catch(() => {});
  }

  load(clip) {
    this.stop();
    this.clip = clip;
    this.audio.src = clip.src;
  }

  toggle(clip) {
    if (this.clip === clip && this.isPlaying) this.audio.pause();
    else this.play(clip);
  }

  /** Stop, and forget the clip. */
  stop() {
    this.audio.pause();
    const before = this.clip;
    this.clip = null;
    if (before) this.eachOf(before, "play-button", (button) => showPlaying(button, false));
    if (before) this.eachOf(before, "picture", (picture) => picture.style.removeProperty("--at"));
  }

  /** Go some seconds forward or back. */
  skip(by) {
    const end = this.audio.duration || this.clip?.seconds || 0;
    this.audio.currentTime = Math.min(end, Math.max(0, this.audio.currentTime + by));
    this.moveCursors();
  }

  /** Where the clip stands, between 0 and 1. */
  get place() {
    const length = this.audio.duration || this.clip?.seconds;
    return length ? Math.min(1, this.audio.currentTime / length) : 0;
  }

  lengthOf(clip) {
    return (this.clip === clip && Number.isFinite(this.audio.duration) && this.audio.duration) || clip.seconds || 0;
  }

  show() {
    if (!this.clip) return;
    this.eachOf(this.clip, "play-button", (button) => showPlaying(button, this.isPlaying));
    const step = () => {
      this.moveCursors();
      if (this.isPlaying) requestAnimationFrame(step);
    };
    step();
  }

  moveCursors() {
    if (!this.clip) return;
    const at = `${(100 * this.place).toFixed(2)}%`;
    this.eachOf(this.clip, "picture", (picture) => picture.style.setProperty("--at", at));
    this.eachOf(this.clip, "clock", (clock) => {
      clock.textContent = `${this.audio.currentTime.toFixed(2)} / ${seconds(this.lengthOf(this.clip))}`;
    });
  }

  fail() {
    const { clip } = this;
    if (!clip || !this.audio.getAttribute("src")) return;
    this.failed.add(clip);
    announce("This clip can't be played");
    this.eachOf(clip, "play-button", (button) => {
      showPlaying(button, false);
      button.classList.add("failed");
      button.title = "Can't be played: is the folder with the clips still beside this page?";
    });
  }

  /** Do something with every element of a class that belongs to a clip; rows come and go, so they are looked up. */
  eachOf(clip, kind, call) {
    for (const element of document.getElementsByClassName(kind)) if (element.clip === clip) call(element);
  }
}

function showPlaying(button, playing) {
  button.classList.toggle("playing", playing);
  button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${button.clipName}`);
}

/** A button that plays a clip and stops it again. */
function playButton(player, clip, name, given = {}) {
  if (!clip?.src) {
    const why = clip?.missing ? `No sound: ${clip.missing}` : "No sound in this page";
    return el("span", { class: "no-sound", title: why, role: "img", "aria-label": why }, "no sound");
  }
  const button = el("button", {
    type: "button", class: "play-button", ...given,
    on: {
      click: (event) => {
        event.stopPropagation();
        player.toggle(clip);
      },
    },
  });
  Object.assign(button, { clip, clipName: name });
  showPlaying(button, player.clip === clip && player.isPlaying);
  if (player.failed.has(clip)) button.classList.add("failed");
  return button;
}

/** A clip's spectrogram with its cursor; a click plays from there. */
function spectrogram(player, clip, name) {
  if (!clip?.picture && !clip?.src) return null;
  const picture = el("div", {
    class: "picture",
    on: {
      click: (event) => {
        if (!clip.src) return;
        event.stopPropagation();
        const box = picture.getBoundingClientRect();
        player.play(clip, ((event.clientX - box.left) / box.width) * player.lengthOf(clip));
      },
    },
  }, clip.picture ? el("img", { src: clip.picture, alt: `Spectrogram of ${name}`, draggable: "false", decoding: "async" }) : null);
  picture.clip = clip;
  if (player.clip === clip) picture.style.setProperty("--at", `${(100 * player.place).toFixed(2)}%`);
  return picture;
}
