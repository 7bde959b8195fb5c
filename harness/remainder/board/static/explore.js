// The figures to zoom and point at. plotly (5 MB) is loaded when a reader asks for it, and not before.
(function () {
  "use strict";
  const here = document.currentScript.src;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DUST = 1e-6; // nats per token by which losses of float32 passes do not differ
  let loading = null;

  function plotly() {
    loading = loading || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = here.replace(/explore\.js$/, "plotly.js");
      script.onload = () => resolve(window.Plotly || window.moduleName);
      script.onerror = () => reject(new Error("assets/plotly.js is not beside the page"));
      document.head.append(script);
    });
    return loading;
  }

  // No other point of the same unit has both a lower cost and less loss; fronts of several units, a gap between.
  function fronts(points) {
    const units = [...new Set(points.map((point) => point.row.unit))].sort();
    return units.flatMap((unit) => [...front(points.filter((point) => point.row.unit === unit)), { x: null, y: null }]);
  }

  function front(points) {
    let least = Infinity;
    return [...points].sort((a, b) => a.x - b.x || a.y - b.y).filter((point) => {
      if (point.y >= least) return false;
      least = point.y;
      return true;
    });
  }

  function traces(rows, key, axis, tone, logarithmic) {
    const points = rows.filter((row) => row[key][0] !== null).map((row) => {
      const ends = row[key].map((end) => (end === null ? null : key.startsWith("gap") ? Math.abs(end) : Math.max(end, 0)));
      return { row, x: row.cost, y: ends[0], low: row[key][1], high: row[key][2] };
    }).filter((point) => !logarithmic || (point.x > 0 && point.y > DUST));
    const steps = fronts(points);
    const whiskered = key.startsWith("kl");
    const markers = (reference) => {
      const some = points.filter((point) => point.row.reference === reference);
      return {
        type: "scatter", mode: "markers", xaxis: "x" + axis, yaxis: "y" + axis, showlegend: false,
        x: some.map((point) => point.x), y: some.map((point) => point.y),
        customdata: some.map((point) => point.row.href),
        text: some.map((point) => point.row.name.slice(0, 60).replace(/[<>&]/g, " ") +
          "<br>" + Number(point.x.toPrecision(4)).toLocaleString("en") + " " + point.row.unit + "<br>" + (whiskered ? "KL " : "Δ ") + point.row[key][0].toPrecision(4) +
          (point.low === null ? "" : " [" + point.low.toPrecision(3) + ", " + point.high.toPrecision(3) + "]")),
        hovertemplate: "%{text}<extra></extra>",
        error_y: whiskered ? {
          type: "data", symmetric: false, thickness: 1, width: 0, color: tone,
          array: some.map((point) => (point.high === null ? 0 : Math.max(point.high - point.y, 0))),
          arrayminus: some.map((point) => (point.low === null ? 0 : Math.max(Math.min(point.y - point.low, point.y), 0))),
        } : undefined,
        marker: { color: reference ? colour("--paper") : tone, size: 8, symbol: reference ? "square" : "circle", line: { color: tone, width: 1.5 } },
      };
    };
    return [
      { type: "scatter", mode: "lines", line: { shape: "hv", color: tone, width: 1.5 }, hoverinfo: "skip", showlegend: false,
        xaxis: "x" + axis, yaxis: "y" + axis, x: steps.map((point) => point.x), y: steps.map((point) => point.y) },
      markers(true), markers(false),
    ];
  }

  for (const button of document.querySelectorAll("[data-explore]")) {
    const board = button.closest("[data-figures]");
    const rows = JSON.parse(board.querySelector("[data-points]").textContent);
    const plot = board.querySelector("[data-plot]");
    const unit = plot.dataset.unit;
    const still = board.querySelector("[data-still]");
    let what = "kl", logarithmic = true, canvas = null;

    const draw = async () => {
      const Plotly = await plotly();
      const scale = logarithmic ? "log" : "linear";
      const axis = (title, rest) => ({ type: scale, dtick: logarithmic ? 1 : undefined, exponentformat: "none", minor: { showgrid: logarithmic, gridcolor: colour("--line"), griddash: "dot" }, title: { text: title, font: { size: 12 } }, gridcolor: colour("--line"), zerolinecolor: colour("--edge"), ...rest });
      const loss = what === "kl" ? "KL (nats per token)" : "|Δ| (nats per token)";
      const tall = matchMedia("(max-width: 700px)").matches;
      const layout = {
        height: tall ? 640 : 380, margin: { l: 56, r: 12, t: 28, b: 44 }, hovermode: "closest",
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--ink") },
        hoverlabel: { bgcolor: colour("--wash"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
        grid: tall ? { rows: 2, columns: 1, pattern: "independent" } : { rows: 1, columns: 2, pattern: "independent" },
        xaxis: axis(unit + ", " + plot.dataset.lead), yaxis: axis(loss), xaxis2: axis(unit + ", Gaussian"), yaxis2: axis(""),
      };
      const data = [...traces(rows, what + "_lead", "", colour("--raw"), logarithmic), ...traces(rows, what + "_gaussian", "2", colour("--gaussian"), logarithmic)];
      await Plotly.react(canvas, data, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
    };

    const choice = (label, options, change) => {
      const field = document.createElement("label");
      const select = document.createElement("select");
      for (const [value, text] of options) select.add(new Option(text, value));
      select.addEventListener("change", () => { change(select.value); draw(); });
      field.append(label + " ", select);
      return field;
    };

    button.hidden = false;
    button.addEventListener("click", async () => {
      if (canvas) { // back to the still figures
        const open = plot.hidden;
        plot.hidden = !open;
        still.hidden = open;
        button.textContent = open ? "Back to the still figures" : "Zoom into these figures";
        return;
      }
      button.disabled = true;
      button.textContent = "Loading …";
      try {
        canvas = document.createElement("div");
        const tools = document.createElement("div");
        tools.className = "tools";
        tools.append(
          choice("Loss", [["kl", "KL"], ["gap", "|Δ|, size of the signed gap"]], (value) => { what = value; }),
          choice("Axes", [["log", "logarithmic (no zeros)"], ["linear", "linear"]], (value) => { logarithmic = value === "log"; })
        );
        plot.hidden = false;
        plot.append(tools, canvas);
        await draw();
        canvas.on("plotly_click", (event) => { location.href = event.points[0].customdata; });
        document.addEventListener("remainder-theme", draw);
        still.hidden = true;
        button.textContent = "Back to the still figures";
      } catch (problem) {
        plot.textContent = String(problem.message || problem);
        button.textContent = "Zoom into these figures";
        canvas = null;
      }
      button.disabled = false;
    });
  }

  // A flow's figure comes as plotly takes it; fonts and colours of lines are the page's.
  for (const button of document.querySelectorAll("[data-zoom]")) {
    const flow = button.closest("[data-flow]");
    const figure = JSON.parse(flow.querySelector("[data-figure]").textContent);
    const plot = flow.querySelector("[data-plot]");
    const still = flow.querySelector("[data-still]");
    const draw = async () => {
      const Plotly = await plotly();
      const narrow = matchMedia("(max-width: 700px)").matches;
      const panels = Object.keys(figure.layout).filter((key) => key.startsWith("xaxis")).length;
      const layout = {
        ...figure.layout,
        height: narrow ? 280 * panels : figure.layout.height,
        grid: narrow ? { ...figure.layout.grid, rows: panels, columns: 1 } : figure.layout.grid,
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--ink") },
      };
      for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
        layout[name] = { ...layout[name], gridcolor: colour("--line"), zerolinecolor: colour("--edge") };
      }
      await Plotly.react(plot, figure.data, layout, { responsive: true, displaylogo: false });
    };
    let drawn = false;
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const open = still.hidden;
        plot.hidden = open;
        if (!drawn) {
          await draw();
          document.addEventListener("remainder-theme", draw);
          drawn = true;
        }
        still.hidden = !open;
        button.textContent = open ? "Zoom into this figure" : "Back to the still figure";
      } catch (problem) {
        plot.textContent = String(problem.message || problem);
      }
      button.disabled = false;
    });
  }
})();
