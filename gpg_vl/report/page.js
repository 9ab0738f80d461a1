"use strict";
// Draws the report from the data in the page. Text of models and rows only ever becomes text nodes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["#1f6feb", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0b7285", "#8a6d00", "#5f3dc4"];
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  function draw(name, attributes, ...children) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  const show = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const signed = (value, digits = 3) => (value === null ? "–" : (value > 0 ? "+" : "") + value.toFixed(digits));
  const brief = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
    return String(Number(value.toPrecision(3)));
  };

  // --- theme ---
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  setTheme(prefersDark.matches);
  prefersDark.addEventListener("change", (event) => setTheme(event.matches));
  byId("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

  // --- overview ---
  // A table that is wider than the screen scrolls in a frame of its own, by keys too.
  function table(caption, heads, rows, meaning) {
    const cells = (row) => row.map((cell) => make("td", {}, cell instanceof Node ? cell : String(cell)));
    return make("div", {}, make("h3", {}, caption), meaning ? make("p", { class: "meaning" }, meaning) : null, make("div", { class: "scroll", role: "region", "aria-label": caption }, make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row)))))));
  }
  function reachWideTables() {
    for (const frame of document.querySelectorAll(".scroll")) {
      if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0;
      else frame.removeAttribute("tabindex");
    }
  }
  const delta = (first, last, write = signed) => first === null || last === null ? "–"
    : make("span", { class: last > first + 0.005 ? "good" : last < first - 0.005 ? "bad" : "dim" }, write(last - first));
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;
  const example = (run, number, mistake) => make("button", { type: "button", "aria-label": `step ${run.groups[mistake.example].step}: ${mistake.what}`, onclick: () => visit(number, mistake.example) }, `step ${run.groups[mistake.example].step}`);
  const named = (run) => (data.runs.length > 1 ? [run.name] : []);
  const head = (...names) => [...(data.runs.length > 1 ? ["run"] : []), ...names];

  function overview() {
    const body = byId("overview-body");
    for (const run of data.runs) {
      body.append(make("p", {}, make("strong", {}, run.name), ` – objective ${run.objective}, ${run.num_steps} steps, ${run.groups.length} groups recorded`));
      for (const verdict of run.verdicts) body.append(make("p", { class: "verdict" }, verdict));
      for (const note of run.notes) body.append(make("p", { class: "note" }, note));
    }
    const changes = (what) => data.runs.flatMap((run) => run.tasks.filter((row) => row.what === what)
      .map((row) => [...named(run), row.name, show(row.first), show(row.last), delta(row.first, row.last)]));
    const tables = make("div", { class: "tables" });
    const add = (caption, heads, rows, meaning) => { if (rows.length) tables.append(table(caption, heads, rows, meaning)); };
    add("Reward while training, by task", head("task", "first tenth", "last tenth", "change"), changes("reward"));
    const shares = (row) => [percent(row.first), percent(row.last), delta(row.first, row.last, () => `${signed(Math.round(100 * row.last) - Math.round(100 * row.first), 0)} points`)];
    add("Answers that agree with the gold ones", head("task", "first steps", "last steps", "change", "earn more by", "95 %"), data.runs.flatMap((run) => run.agreement
      .map((row) => [...named(run), row.task, ...shares(row), signed(row.gain, 2), row.gain_low === null ? "–" : `${signed(row.gain_low, 2)} to ${signed(row.gain_high, 2)}`])),
    "First and last steps: a tenth of the recorded steps at either end, more where these have fewer than 20 groups. Earn more by: the reward of answers that agree beyond that of others in their group, with its interval over groups. Boxes agree from an IoU of 0.5 on.");
    add("Parts of the reward", head("part", "first tenth", "last tenth", "change"), changes("part"));
    add("What is still wrong, in the last recorded steps", head("task", "answers", "share", "look"), data.runs.flatMap((run, number) => run.agreement
      .flatMap((row) => row.mistakes.map((mistake) => [...named(run), row.task, mistake.what, percent(mistake.share), example(run, number, mistake)]))),
    "The five most frequent kinds of each task, each with the group that has most of it.");
    add("Validation", head("step", "task", "metric", "score", "95 %"), data.runs.flatMap((run) => run.validation
      .map((row) => [...named(run), row.step, row.task, row.metric, show(row.value), `${show(row.low, 2)} – ${show(row.high, 2)}`])));
    add("Evaluation", head("folder", "task", "metric", "score", "95 %", "rows"), data.runs.flatMap((run) => run.evaluations
      .map((row) => [...named(run), row.name, row.task, row.metric, show(row.value), `${show(row.low, 2)} – ${show(row.high, 2)}`, row.n])));
    body.append(tables);
  }

  // --- curves ---
  const BOX = { width: 360, height: 190, left: 44, right: 16, top: 8, bottom: 22 };
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
    return found;
  }
  function plot(title, curves) {
    const all = (key) => curves.flatMap((curve) => curve[key]);
    const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [firstStep, lastStep] = extent(all("steps"));
    let [low, high] = extent([...all("low"), ...all("high"), ...all("values")]);
    if (low === high) { const room = Math.abs(low) / 2 || 0.5; low -= room; high += room; }
    const x = (step) => BOX.left + (step - firstStep) / (lastStep - firstStep || 1) * (BOX.width - BOX.left - BOX.right);
    const y = (value) => BOX.height - BOX.bottom - (value - low) / (high - low) * (BOX.height - BOX.top - BOX.bottom);
    const words = curves.map((curve) => `${curve.label} from ${brief(curve.values[0])} to ${brief(curve.values[curve.values.length - 1])}`);
    const svg = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": `${title}: ${words.join("; ")}` });
    for (const value of ticks(low, high, 4)) {
      svg.append(draw("line", { class: "axis", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(value), y2: y(value) }));
      svg.append(draw("text", { class: "tick", x: BOX.left - 5, y: y(value) + 3, "text-anchor": "end" }, brief(value)));
    }
    for (const step of ticks(firstStep, lastStep, 5)) svg.append(draw("text", { class: "tick", x: x(step), y: BOX.height - 6, "text-anchor": "middle" }, brief(step)));
    for (const curve of curves) {
      const up = curve.steps.map((step, n) => `${x(step).toFixed(1)},${y(curve.high[n]).toFixed(1)}`);
      const down = curve.steps.map((step, n) => `${x(step).toFixed(1)},${y(curve.low[n]).toFixed(1)}`).reverse();
      svg.append(draw("polygon", { class: "band", points: [...up, ...down].join(" "), fill: curve.colour }));
      const points = curve.steps.map((step, n) => `${x(step).toFixed(1)},${y(curve.values[n]).toFixed(1)}`);
      svg.append(points.length > 1 ? draw("polyline", { class: "line", points: points.join(" "), stroke: curve.colour, "stroke-dasharray": curve.dash })
        : draw("circle", { cx: x(curve.steps[0]), cy: y(curve.values[0]), r: 3, fill: curve.colour }));
    }
    return svg;
  }
  function legend(curves) {
    return make("ul", { class: "legend" }, ...curves.map((curve) => {
      const swatch = make("span", { class: "swatch" });
      const dash = parseFloat(curve.dash);  // of "none" it is no number
      swatch.style.background = dash ? `repeating-linear-gradient(90deg, ${curve.colour} 0 ${dash}px, transparent 0 ${dash + 3}px)` : curve.colour;
      return make("li", {}, swatch, `${curve.label} ${brief(curve.values[curve.values.length - 1])}`);
    }));
  }
  function charts() {
    const titles = [...new Set(data.runs.flatMap((run) => run.charts.map((chart) => chart.title)))];
    for (const title of titles) {
      const found = data.runs.map((run, number) => ({ run, number, chart: run.charts.find((chart) => chart.title === title) })).filter((each) => each.chart);
      const several = data.runs.length > 1;
      const curves = found.flatMap(({ run, number, chart }) => chart.curves.map((curve, n) => ({
        ...curve,
        label: several ? (chart.curves.length > 1 ? `${run.name}: ${curve.name}` : run.name) : curve.name,
        colour: COLOURS[(several ? number : n) % COLOURS.length],
        dash: several && n ? `${2 + 3 * n} 3` : "none",
      })));
      byId("charts").append(make("figure", {}, make("figcaption", {}, make("strong", {}, title), found[0].chart.explanation), plot(title, curves), legend(curves)));
    }
  }

  // --- rollouts ---
  const groups = data.runs.flatMap((run, number) => run.groups.map((group, place) => ({ ...group, run: number, place })));
  groups.forEach((group, number) => {
    group.number = number;
    group.words = [group.id, group.question, group.answer, ...group.completions.map((each) => each.text)].join("\n").toLowerCase();
  });
  const comparable = data.runs.map((run) => new Set(run.agreement.map((each) => each.task)));
  for (const group of groups) {
    group.hasGold = comparable[group.run].has(group.task);
    group.right = group.completions.filter((each) => each.agrees).length;
    group.gold = !group.hasGold ? "" : group.right === 0 ? "none" : group.right === group.completions.length ? "every" : "some";
  }
  const chosen = { run: "", step: "", task: "", kind: "", gold: "", status: "", id: "", text: "" };
  let matching = [];
  let current = -1;

  function select(name, label, values) {
    const field = make("select", { name, onchange: (event) => { chosen[name] = event.target.value; filter(); } },
      make("option", { value: "" }, "all"), ...values.map(([value, text]) => make("option", { value }, text)));
    return make("label", {}, label, field);
  }
  function filters() {
    const form = byId("filters");
    const values = (get) => [...new Set(groups.flatMap(get))];
    const plain = (list) => list.map((value) => [String(value), String(value)]);
    form.addEventListener("submit", (event) => event.preventDefault());
    if (data.runs.length > 1) form.append(select("run", "Run", data.runs.map((run, number) => [String(number), run.name])));
    form.append(
      select("step", "Step", plain(values((group) => [group.step]).sort((a, b) => a - b))),
      select("task", "Task", plain(values((group) => [group.task]).sort())),
      select("kind", "Kind", [["mixed", "mixed: rewards differ"], ["easy", "easy: all earn the same, and much"], ["hard", "hard: all earn the same, and little"]]),
      ...(groups.some((group) => group.hasGold) ? [select("gold", "As gold", [["none", "no answer"], ["some", "some answers"], ["every", "every answer"]])] : []),
      select("status", "Status", plain(values((group) => group.statuses).sort())),
      make("label", {}, "Text", make("input", { type: "search", name: "text", placeholder: "in question, gold or answers", oninput: (event) => { chosen.text = event.target.value.toLowerCase(); filter(); } })),
      make("button", { type: "button", id: "all", onclick: clear }, "Show all"),
      make("span", { id: "count", role: "status" }));
  }
  function clear() {
    for (const name of Object.keys(chosen)) chosen[name] = "";
    for (const field of byId("filters").querySelectorAll("select, input")) field.value = "";
    filter();
  }
  const fits = (group) => (!chosen.run || String(group.run) === chosen.run) && (!chosen.step || String(group.step) === chosen.step)
    && (!chosen.task || group.task === chosen.task) && (!chosen.kind || group.kind === chosen.kind) && (!chosen.gold || group.gold === chosen.gold)
    && (!chosen.status || group.statuses.includes(chosen.status)) && (!chosen.id || group.id === chosen.id) && (!chosen.text || group.words.includes(chosen.text));

  function filter() {
    matching = groups.filter(fits);
    byId("count").textContent = `${matching.length} of ${groups.length} groups${chosen.id ? ` of sample ${chosen.id}` : ""}`;
    byId("list").replaceChildren(...matching.map(item));
    open(matching.length ? 0 : -1);
  }
  function item(group, place) {
    const where = data.runs.length > 1 ? `${data.runs[group.run].name}, step ${group.step}` : `step ${group.step}`;
    return make("div", { class: "item", role: "option", id: `item-${place}`, "aria-selected": "false", onclick: () => open(place) },
      make("div", { class: "top" }, make("span", {}, `${where} · ${group.task}`), make("span", { class: "kind" }, group.kind)),
      make("div", { class: "what" }, group.question || group.prompt),
      make("div", { class: "dim" }, `mean ${show(group.mean, 2)} · ${group.hasGold ? `${group.right} as gold, ` : ""}${group.num_answers} different of ${group.completions.length}`));
  }
  function open(place) {
    byId(`item-${current}`)?.setAttribute("aria-selected", "false");
    current = place;
    const list = byId("list");
    list.removeAttribute("aria-activedescendant");
    if (place < 0) { byId("group").replaceChildren(make("p", { class: "hint" }, groups.length ? "No group fits the filters." : "No groups were recorded (run.record.every).")); return; }
    const element = byId(`item-${place}`);
    element.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", element.id);
    const above = element.offsetTop - list.offsetTop;
    if (above < list.scrollTop || above + element.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = above - list.clientHeight / 2;
    byId("group").replaceChildren(...detail(matching[place]));
  }
  function move(by) { if (matching.length) open(Math.min(matching.length - 1, Math.max(0, current + by))); }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    const inList = event.target === byId("list");
    if (event.key === "/" && !typing) { byId("filters").querySelector("input").focus(); event.preventDefault(); }
    else if ((event.key === "j" && !typing) || (event.key === "ArrowDown" && inList)) { move(1); event.preventDefault(); }
    else if ((event.key === "k" && !typing) || (event.key === "ArrowUp" && inList)) { move(-1); event.preventDefault(); }
  });

  function rectangles(boxes, name) {
    return boxes.filter((box) => box.length === 4 && box.every(Number.isFinite)).map(([x1, y1, x2, y2]) => draw("rect",
      { class: `box ${name}`, x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) }));
  }
  function pictures(group) {
    return make("div", { class: "pictures" }, ...group.images.map((image, n) => {
      const uri = data.images[image.file];
      if (!uri) return make("p", { class: "hint" }, `image ${n + 1} is not in the record`);
      const frame = make("div", { class: "frame" }, make("img", { src: uri, alt: `image ${n + 1} of ${group.images.length}, ${image.width} by ${image.height} pixels` }));
      const scale = Math.min(360 / image.width, 360 / image.height);
      if (scale > 2) frame.classList.add("enlarged");
      frame.style.width = `${image.width * scale}px`;
      frame.style.height = `${image.height * scale}px`;
      if (n === 0) frame.append(draw("svg", { viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
        ...rectangles(group.boxes, "gold"), ...rectangles(group.boxes, "gold2"),
        ...group.completions.flatMap((each, number) => rectangles(each.boxes, `answer a${number}`))));
      return make("figure", { class: "picture" }, frame, make("figcaption", {}, `${image.width} x ${image.height}`));
    }));
  }
  function videos(group) {
    return group.videos.map((video, n) => {
      const shown = video.frames.filter((frame) => data.images[frame.file]);
      if (!shown.length) return make("p", { class: "hint" }, `video ${n + 1} is not in the record`);
      return make("figure", { class: "video" }, make("div", { class: "film" }, ...shown.map((frame) => make("figure", { class: "still" },
        make("img", { src: data.images[frame.file], alt: `video ${n + 1} at ${frame.seconds.toFixed(2)} seconds` }),
        make("figcaption", {}, `${frame.seconds.toFixed(2)} s`)))),
      make("figcaption", {}, `${video.width} x ${video.height}, ${shown.length} of the ${video.num_frames} frames that the model saw`));
    });
  }
  function light(number, on) { for (const box of document.querySelectorAll(`.box.a${number}`)) box.classList.toggle("lit", on); }
  function textOf(completion) {
    const end = completion.text.lastIndexOf("</think>");
    if (end < 0) return [make("pre", {}, completion.text)];
    const reasoning = completion.text.slice(0, end).replace("<think>", "").trim();
    const rest = completion.text.slice(end + "</think>".length);
    return [reasoning ? make("details", {}, make("summary", {}, `reasoning, ${reasoning.length} characters`), make("pre", {}, reasoning)) : null, make("pre", {}, rest)];
  }
  function answerCard(completion, number, isTrained) {
    const advantage = completion.advantage !== null ? `advantage ${signed(completion.advantage)}` : isTrained ? "trained" : "not trained";
    const parts = completion.parts.map((part) => `${part.name} ${show(part.value, 2)}`).join(", ");
    const mark = completion.advantage === null ? "dim" : completion.advantage > 0 ? "good" : completion.advantage < 0 ? "bad" : "dim";
    return make("div", { class: "answer-card", role: "group", "aria-label": `answer ${number + 1}`, onmouseenter: () => light(number, true), onmouseleave: () => light(number, false) },
      make("div", {}, make("strong", {}, `reward ${show(completion.reward)}`), " ", make("span", { class: mark }, advantage)),
      make("div", { class: "dim" }, `${parts}${parts ? " · " : ""}${completion.num_tokens} tokens${completion.finished ? "" : ", cut off"}${completion.log_prob === null ? "" : ` · log-prob ${show(completion.log_prob, 1)}`}`),
      completion.status === "ok" ? null : make("div", { class: "bad" }, `${completion.status}${completion.message ? `: ${completion.message}` : ""}`),
      make("div", {}, "answer: ", make("strong", {}, completion.answer === null ? "none found" : completion.answer), completion.agrees ? make("span", { class: "good" }, " ✓ as gold") : null),
      ...textOf(completion));
  }
  function overSteps(group) {
    const same = groups.filter((other) => other.id === group.id && other.run === group.run);
    if (same.length < 2) return null;
    return make("div", { class: "steps", role: "group", "aria-label": "the same sample over the steps" }, make("span", { class: "dim" }, "same sample:"),
      ...same.map((other) => make("button", { type: "button", "aria-current": other === group ? "true" : "false", onclick: () => follow(other) }, `step ${other.step}: ${show(other.mean, 2)}`)));
  }
  function follow(group) {
    for (const name of Object.keys(chosen)) chosen[name] = "";
    for (const field of byId("filters").querySelectorAll("select, input")) field.value = "";
    chosen.id = group.id;
    filter();
    open(matching.indexOf(group));
  }
  function visit(run, place) {
    clear();
    open(matching.findIndex((group) => group.run === run && group.place === place));
    byId("rollouts").scrollIntoView();
    byId("list").focus({ preventScroll: true });
  }
  function detail(group) {
    const words = make("div", { class: "words" }, make("pre", {}, group.question || group.prompt),
      make("p", {}, "gold: ", make("strong", { class: "good" }, group.answer)),
      group.boxes.length ? make("p", { class: "dim" }, "Gold boxes are solid green, those of answers dashed. Point at an answer to find its own.") : null,
      make("details", {}, make("summary", {}, "prompt as the model read it"), make("pre", {}, group.prompt)));
    return [make("h3", {}, `${group.task} · sample ${group.id} · step ${group.step}`), overSteps(group),
      make("div", { class: "asked" }, pictures(group), ...videos(group), words),
      make("div", { class: "answers" }, ...group.completions.map((each, number) => answerCard(each, number, group.is_trained)))].filter((each) => each !== null);
  }

  // --- recipe ---
  function recipes() {
    for (const run of data.runs) byId("recipe-body").append(make("details", { open: data.runs.length === 1 }, make("summary", {}, `recipe of ${run.name}`), make("pre", {}, run.recipe)));
  }

  overview();
  charts();
  filters();
  filter();
  recipes();
  reachWideTables();
  window.addEventListener("resize", reachWideTables);
})();
