// Tables that sort and filter. Without it they stand there as they are, ordered by KL, with every column.
(function () {
  "use strict";
  const DataTable = window.DataTable;
  // The order of this project's cells: numbers by `data-order`, words by letters, what is missing always last.
  const types = DataTable.ext.type.order;
  const asNumber = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
  const last = (sign) => (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a - b);
  };
  types["number-pre"] = asNumber;
  types["number-asc"] = last(1);
  types["number-desc"] = last(-1);

  for (const board of document.querySelectorAll("[data-board]")) {
    const element = board.querySelector("[data-table]");
    const numeric = [];
    [...element.tBodies[0].rows].slice(0, 1).forEach((row) =>
      [...row.cells].forEach((cell, index) => {
        if (cell.matches(".num, .place")) numeric.push(index);
      })
    );
    const pages = Number(board.dataset.pages || 0);
    const table = new DataTable(element, {
      autoWidth: false,
      info: false,
      order: [],
      paging: pages > 0 && element.tBodies[0].rows.length > pages,
      pageLength: pages || 10,
      searching: true,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: pages > 0 ? "paging" : null },
      columnDefs: [{ targets: numeric, type: "number", orderSequence: ["asc", "desc", ""] }],
    });
    const tools = board.querySelector(".tools");
    const of = (name) => tools.querySelector("[data-" + name + "]");
    const [search, kind, cost, front, count] = ["search", "kind", "cost", "front", "count"].map(of);

    const every = of("all");
    if (every && element.querySelector("th.more")) {
      const tables = board.querySelectorAll("table.board"); // references and further seeds have the same columns
      const show = () => tables.forEach((one) => one.classList.toggle("brief", !every.checked));
      every.addEventListener("change", show);
      show();
    } else if (every) every.parentElement.remove();

    const wanted = (row) => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      if (!words.every((word) => (row.dataset.words || row.textContent.toLowerCase()).includes(word))) return false;
      if (kind && kind.value && row.dataset.kind !== kind.value) return false;
      if (cost && cost.value !== "" && !(row.dataset.cost !== "" && Number(row.dataset.cost) <= Number(cost.value))) return false;
      return !(front && front.checked && !("front" in row.dataset));
    };
    table.search.fixed("tools", (text, data, index) => wanted(table.row(index).node()));

    const tell = () => {
      const nodes = table.rows().nodes().toArray();
      const shown = table.rows({ search: "applied" }).count();
      const what = board.dataset.pages ? "records" : "submissions";
      count.textContent = shown + " of " + nodes.length + " " + what;
    };
    const apply = () => { table.draw(); tell(); };
    tools.addEventListener("input", apply);
    of("reset").addEventListener("click", () => {
      for (const input of [search, kind, cost]) if (input) input.value = "";
      if (front) front.checked = false;
      table.order([]);
      apply();
      if (search.offsetParent) search.focus();
    });
    tools.hidden = false;
    tell();
  }
})();
