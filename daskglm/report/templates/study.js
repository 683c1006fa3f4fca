
"use strict";
(() => {
  const table = document.getElementById("contrasts");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.hasAttribute("data-sort")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Of numbers, the largest come first.
      const sorted = head.getAttribute("aria-sort");
      const falling = head.className === "number" ? sorted !== "descending" : sorted === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const keyed = rows.map((row) => [value(row, column), row]);
      // What is missing comes last in either direction.
      keyed.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : (falling ? -1 : 1) * compare(a, b)));
      body.append(...keyed.map(([, row]) => row));
    });
  });

  const filter = document.getElementById("filter");
  const shown = document.querySelector(".filter output");
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
    });
    shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  document.querySelector(".filter").hidden = false;
  filter.addEventListener("input", show);
  show();
})();
