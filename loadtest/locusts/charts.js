// Charts of the open loop below Locust's own page: SLO attainment, accuracy, arrivals by subnet.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 900, HEIGHT = 170, LEFT = 60, BOTTOM = 24, TOP = 10;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999"];
  const root = document.getElementById("serving");
  root.style.cssText = "max-width:1100px;margin:1em auto 4em;padding:0 1em;font-family:sans-serif;color:#808080";

  const element = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const heading = (title, lines) => {
    const made = document.createElement("h4");
    made.style.margin = "1em 0 0";
    made.append(title + "  ");
    lines.forEach(({ name }, i) => {
      const key = document.createElement("span");
      key.style.cssText = `color:${COLOURS[i % COLOURS.length]};margin-left:1em;font-weight:normal`;
      key.textContent = name;
      made.append(key);
    });
    return made;
  };

  const chart = (title, unit, lines, low, high) => {
    const seconds = Math.max(lines[0]?.values.length ?? 0, 2);
    const x = (i) => LEFT + ((WIDTH - LEFT - 10) * i) / (seconds - 1);
    const y = (v) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - v)) / (high - low || 1);
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%", role: "img" });
    svg.append(element("title", {}, title));
    for (const value of [low, (low + high) / 2, high]) {
      svg.append(element("line", { x1: LEFT, x2: WIDTH - 10, y1: y(value), y2: y(value),
        stroke: "#80808060" }));
      svg.append(element("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end",
        "font-size": 12, fill: "currentColor" }, `${+value.toFixed(1)}${unit}`));
    }
    svg.append(element("text", { x: WIDTH - 10, y: HEIGHT - 6, "text-anchor": "end",
      "font-size": 12, fill: "currentColor" }, `${seconds - 1} s`));
    lines.forEach(({ values }, i) => {
      let path = "";
      values.forEach((v, t) => {
        if (v === null || v === undefined) return;
        const before = values[t - 1];
        const first = t === 0 || before === null || before === undefined;
        path += `${first ? "M" : "L"}${x(t).toFixed(1)},${y(v).toFixed(1)}`;
      });
      svg.append(element("path", { d: path, fill: "none", "stroke-width": 2,
        stroke: COLOURS[i % COLOURS.length] }));
    });
    return [heading(title, lines), svg];
  };

  const draw = ({ state, timeline }) => {
    const column = (key) => timeline.map((second) => second[key]);
    const accuracies = [
      { name: "profiled", values: column("profiled") },
      { name: "measured", values: column("measured") },
    ];
    const known = accuracies.flatMap(({ values }) => values.filter((v) => v !== null));
    const low = known.length ? Math.floor(Math.min(...known)) : 0;
    const subnets = [...new Set(timeline.flatMap(({ subnets }) => Object.keys(subnets)))].sort();
    const served = subnets.map((name) => ({
      name, values: timeline.map((second) => second.subnets[name] ?? 0),
    }));
    const rates = [{ name: "arrivals", values: column("rate") }, ...served];
    const top = Math.max(1, ...rates.flatMap(({ values }) => values));
    const status = document.createElement("p");
    status.textContent = `Open loop: ${state}. Each point is one second of arrivals.`;
    root.replaceChildren(
      status,
      ...chart("SLO attainment", " %", [{ name: "", values: column("attainment") }], 0, 100),
      ...chart("Accuracy served", " %", accuracies, low, 100),
      ...chart("Queries per second, and answers by subnet", "", rates, 0, top),
    );
  };

  const look = async () => {
    try {
      const answer = await fetch("./serving.json");
      if (answer.ok && !document.hidden) draw(await answer.json());
    } finally {
      setTimeout(look, 2000);
    }
  };
  look();
})();
