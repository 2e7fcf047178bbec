"use strict";
/* Reads the data and fills the page. */

const THEMES = [["", "As the system"], ["light", "Light"], ["dark", "Dark"]];

document.addEventListener("DOMContentLoaded", () => {
  const report = new Report(JSON.parse(byId("data").textContent));
  const view = new View(report);
  const player = new Player(byId("player"));
  const correction = new Correction(view, player);
  view.rowsTable = new RowsTable(view, player, (rows, row) => correction.start(rows, row));
  showHead(report);
  showTheme();
  showTraining(byId("training"), report);
  const show = () => {
    player.stop();
    const there = view.set !== null;
    for (const id of ["scores", "confusion", "classes", "calibration", "rows"]) byId(id).hidden = !there;
    if (there) {
      showScores(view);
      showConfusion(view);
      showClasses(view);
      showCalibration(view);
      view.rowsTable.show();
    }
    showChoice(view);
    showContents();
  };
  view.onChange(show);
  show();
  document.body.dataset.ready = "true";
});

/** The choice of set and run, where there is any. */
function showChoice(view) {
  const { report, setName, run } = view;
  const sets = report.setNames.length > 1
    ? selectBox("Set", report.setNames.map((name) => [name, name]), setName, (name) => view.choose(name, run)) : null;
  const runs = view.runs.length > 1
    ? selectBox("Run", view.runs.map((one) => [String(one.index), one.name]), String(run.index), (index) => view.choose(setName, report.runs[Number(index)])) : null;
  const focused = [...byId("choice").querySelectorAll("select")].findIndex((box) => box === document.activeElement);
  refill(byId("choice"), sets, runs);
  byId("choice").hidden = !sets && !runs;
  byId("choice").querySelectorAll("select")[focused]?.focus();
}

/** Links to the sections that there are. */
function showContents() {
  const sections = [...document.querySelectorAll("main > section[data-name]")].filter((section) => !section.hidden);
  refill(byId("contents"), sections.map((section) => el("a", { href: `#${section.id}` }, section.dataset.name)));
}

/** Light, dark, or as the system has it; the choice is kept. */
function showTheme() {
  const use = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  const chosen = storage.read("theme") ?? "";
  use(chosen);
  refill(byId("theme"), selectBox("Colours", THEMES, chosen, (theme) => {
    use(theme);
    storage.write("theme", theme);
  }));
}
