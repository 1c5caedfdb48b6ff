"use strict";
// Search and map. Texts of rows are written with textContent alone: nothing here makes markup.
(async () => {
  const byId = (id) => document.getElementById(id);
  const MAX_RESULTS = 100;
  const MIN_ID = 4; // characters of a word that may be the beginning of an id
  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00", "#7a5bb5"];

  const CONTROLS = /(?![\n\t])[\p{Cc}\p{Cf}\u2028\u2029]/gu; // a row may turn the order of reading round
  const visible = (text) =>
    `${text}`.replace(CONTROLS, (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));

  const element = (name, text, kind) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = visible(text);
    if (kind) node.className = kind;
    return node;
  };
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    byId(id).remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  const openTarget = () => {
    const target = byId(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();

  const data = JSON.parse(await unpack("payload"));
  const { rows, names } = data;
  const count = rows.id.length;
  const verdicts = names.verdict.map((name) => {
    const [verdict, stage, reason] = name.split("\t");
    return { verdict, stage, reason, words: stage ? `${verdict} by ${stage}: ${reason}` : verdict };
  });
  const verdictOf = (row) => verdicts[rows.verdict[row]];
  const sourceOf = (row) => names.source[rows.source[row]];
  const shown = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

  // Search: every word or "quoted phrase" must begin the id, or occur in the text or the facts.
  let haystacks = null;
  const prepare = () => {
    const facts = names.verdict.map((v) => v.replaceAll("\t", " ").toLowerCase());
    const sources = names.source.map((s) => s.toLowerCase());
    haystacks = rows.text.map((text, i) =>
      `${text.toLowerCase()}\n${sources[rows.source[i]]}\n${facts[rows.verdict[i]]}`);
  };
  const find = (query, verdict) => {
    if (!haystacks) prepare();
    const words = [...query.toLowerCase().matchAll(/"([^"]+)"|\S+/g)].map((m) => m[1] ?? m[0]);
    const matches = [];
    for (let i = 0; i < count; i++) {
      if (verdict && verdictOf(i).verdict !== verdict) continue;
      if (words.every((w) => haystacks[i].includes(w) || (w.length >= MIN_ID && rows.id[i].startsWith(w)))) matches.push(i);
    }
    return matches;
  };
  const facts = (row) => {
    const line = element("span", undefined, "facts");
    line.append(
      element("code", rows.id[row].slice(0, 12)), element("span", sourceOf(row)),
      element("span", verdictOf(row).words, `is-${verdictOf(row).verdict}`));
    return line;
  };
  const search = () => {
    const query = byId("query").value, verdict = byId("verdict").value;
    const list = byId("results");
    list.replaceChildren();
    if (!query.trim() && !verdict) {
      byId("count").textContent = `${shown(count, "row")} can be searched.`;
      return;
    }
    const matches = find(query, verdict);
    const more = matches.length > MAX_RESULTS ? `, the first ${MAX_RESULTS} of them here` : "";
    byId("count").textContent = shown(matches.length, "row") + more + ".";
    for (const row of matches.slice(0, MAX_RESULTS)) {
      const button = element("button");
      button.type = "button";
      button.dataset.row = row;
      button.append(element("span", rows.text[row].replace(/\s+/g, " ") || "(no text)", "text"), facts(row));
      button.addEventListener("click", () => show(row));
      const item = element("li");
      item.append(button);
      list.append(item);
    }
  };

  // One row: its text, its history, its evidence, and the command for the rest.
  const named = (evidence) => [...new Set(evidence.match(/[0-9a-f]{32}/g) || [])];
  const show = (row) => {
    const panel = byId("row");
    panel.hidden = false;
    panel.replaceChildren(element("h3", rows.id[row]), facts(row), element("pre", rows.text[row] + (rows.text[row].length >= 200 ? "…" : "")));
    panel.append(element("h4", "Its history"));
    const steps = element("ol", undefined, "history");
    for (const [stage, outcome] of data.histories[rows.history[row]]) {
      const [what, reason] = data.outcomes[outcome].split("\t");
      const item = element("li", undefined, what.split(",")[0]);
      item.append(element("strong", data.stages[stage]), element("span", reason ? `${what}: ${reason}` : what));
      steps.append(item);
    }
    panel.append(steps);
    if (rows.evidence[row]) {
      panel.append(element("h4", "Evidence"), element("pre", rows.evidence[row]));
      for (const id of named(rows.evidence[row])) {
        const other = rows.id.indexOf(id);
        if (other < 0 || other === row) continue;
        const button = element("button", `Show ${id.slice(0, 12)}, which it names`);
        button.type = "button";
        button.addEventListener("click", () => show(other));
        panel.append(button);
      }
    }
    panel.append(element("h4", "All that is known of it"), element("code", data.explain.replace(data.placeholder, rows.id[row]), "command"));
    for (const button of byId("results").querySelectorAll("button")) {
      button.toggleAttribute("aria-current", Number(button.dataset.row) === row);
    }
    history.replaceState(null, "", `#row-${rows.id[row]}`);
  };
  const openRow = () => {
    const match = /^#row-(.+)$/.exec(decodeURIComponent(location.hash));
    const row = match ? rows.id.indexOf(match[1]) : -1;
    if (row < 0) return;
    show(row);
    byId("search").scrollIntoView();
  };
  for (const verdict of ["kept", "dropped", "failed", "other"]) {
    const option = element("option", verdict);
    option.value = verdict;
    if (verdicts.some((v) => v.verdict === verdict)) byId("verdict").append(option);
  }
  let waiting = 0;
  byId("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, count > 20000 ? 120 : 30);
  });
  byId("verdict").addEventListener("change", search);
  byId("query").disabled = byId("verdict").disabled = false;
  search();
  openRow();
  addEventListener("hashchange", openRow);
  document.documentElement.dataset.ready = "search";

  // The map: one trace for each value of what is coloured by.
  const points = data.map;
  if (!points) {
    document.documentElement.dataset.ready = "all";
    return;
  }
  const draw = async () => {
    (0, eval)(await unpack("library"));
    const plot = byId("plot"), tip = byId("tip");
    const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const canvas = document.createElement("canvas");
    const type = canvas.getContext("webgl2") || canvas.getContext("webgl") ? "scattergl" : "scatter";
    const hidden = new Set();
    const groupOf = {
      verdict: (i) => verdictOf(points.row[i]).verdict,
      source: (i) => sourceOf(points.row[i]),
      cluster: (i) => points.cluster && points.cluster[i] !== null ? `cluster ${points.cluster[i]}` : "no cluster",
    };
    const colours = (by, keys) => {
      if (by !== "verdict") return keys.map((_, k) => PALETTE[k % PALETTE.length]);
      return keys.map((key) => token({ kept: "--accent", failed: "--failed" }[key] || "--other"));
    };
    const traces = (by) => {
      const groups = new Map();
      for (let i = 0; i < points.x.length; i++) {
        const key = groupOf[by](i);
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push(i);
      }
      let keys = [...groups.keys()].sort((a, b) => groups.get(b).length - groups.get(a).length || (a < b ? -1 : 1));
      if (by === "verdict") keys = ["other", "dropped", "failed", "kept"].filter((k) => groups.has(k));
      if (by === "cluster") keys.sort((a, b) => parseInt(a.slice(8), 10) - parseInt(b.slice(8), 10));
      const colour = colours(by, keys);
      const size = points.x.length > 5000 ? 4 : 6;
      return keys.map((key, k) => ({
        key, index: groups.get(key), type, mode: "markers", hoverinfo: "none", showlegend: false,
        visible: !hidden.has(key), x: groups.get(key).map((i) => points.x[i]), y: groups.get(key).map((i) => points.y[i]),
        marker: {
          color: colour[k], size: by === "verdict" && key === "kept" ? size + 1 : size,
          opacity: by === "verdict" && key !== "kept" ? 0.55 : 0.8,
          symbol: by === "verdict" || k < PALETTE.length ? "circle" : ["square", "diamond", "cross"][Math.floor(k / PALETTE.length - 1) % 3],
        },
      }));
    };
    const axis = { visible: false, range: [-0.04 * data.grid, 1.04 * data.grid], fixedrange: false };
    const layout = {
      autosize: true, margin: { l: 0, r: 0, t: 0, b: 0 }, xaxis: axis, yaxis: { ...axis },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: "pan",
    };
    const config = {
      responsive: true, displaylogo: false, scrollZoom: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    };
    let current = [];
    const render = async () => {
      const by = byId("colour").value;
      current = traces(by);
      await Plotly.react(plot, current, layout, config);
      const legend = byId("maplegend");
      legend.replaceChildren();
      for (const trace of current) {
        const button = element("button");
        button.type = "button";
        button.setAttribute("aria-pressed", String(!hidden.has(trace.key)));
        const dot = element("span", undefined, "dot");
        dot.style.background = trace.marker.color;
        button.append(dot, element("span", `${trace.key} (${trace.index.length.toLocaleString("en")})`));
        button.addEventListener("click", () => {
          if (!hidden.delete(trace.key)) hidden.add(trace.key);
          render();
        });
        legend.append(button);
      }
    };
    const rowAt = (event) => {
      const point = event.points[0];
      return points.row[current[point.curveNumber].index[point.pointNumber]];
    };
    await render();
    plot.on("plotly_hover", (event) => {
      const row = rowAt(event), at = event.event;
      tip.replaceChildren(facts(row), element("span", rows.text[row], "text"));
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(at.clientX + 14, innerWidth - box.width - 8))}px`;
      tip.style.top = `${Math.max(4, Math.min(at.clientY + 14, innerHeight - box.height - 8))}px`;
    });
    plot.on("plotly_unhover", () => { tip.hidden = true; });
    plot.on("plotly_click", (event) => {
      tip.hidden = true;
      show(rowAt(event));
      byId("search").scrollIntoView();
    });
    byId("colour").addEventListener("change", () => { hidden.clear(); render(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
    document.documentElement.dataset.ready = "all";
  };
  await draw();
})().catch((error) => {
  document.getElementById("count").textContent = `Search and map do not work in this browser: ${error.message}`;
  throw error;
});
