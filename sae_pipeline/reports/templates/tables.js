(function () {
  var FILTER_FROM = 8; // a shorter table is seen at a glance
  function key(row, column) { var cell = row.cells[column]; return cell.dataset.sort === undefined ? cell.textContent : cell.dataset.sort; }
  function number(text) { // as Python and the report write numbers; what is missing is below all others, unless a cell has a key of its own
    var plain = text.trim().replace("−", "-");
    return /^(—|nan|-inf)$/.test(plain) ? -Infinity : plain === "inf" ? Infinity : plain === "" ? NaN : Number(plain);
  }

  function sortable(th) {
    th.querySelector("button").addEventListener("click", function () {
      var up = th.getAttribute("aria-sort") !== "ascending", column = th.cellIndex, body = th.closest("table").tBodies[0];
      th.parentNode.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      Array.from(body.rows).sort(function (a, b) {
        var x = key(a, column), y = key(b, column), n = number(x), m = number(y);
        var order = n === m ? 0 : isNaN(n) || isNaN(m) ? x.localeCompare(y, "en", { numeric: true }) : n - m;
        return up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  }

  function filterable(table) {
    var rows = Array.from(table.tBodies[0].rows), scroll = table.closest(".scroll");
    if (rows.length < FILTER_FROM) { return; }
    var texts = rows.map(function (row) { return Array.from(row.cells, function (cell) { return cell.textContent; }).join(" ").toLowerCase(); });
    var bar = document.createElement("div"), box = document.createElement("input"), said = document.createElement("span");
    bar.className = "filter";
    box.type = "search";
    box.placeholder = "Filter rows";
    box.setAttribute("aria-label", "Show only rows with these words: " + scroll.getAttribute("aria-label"));
    said.setAttribute("role", "status");
    bar.append(box, said);
    scroll.before(bar);
    box.addEventListener("input", function () {
      var wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean), left = 0;
      rows.forEach(function (row, n) {
        row.hidden = !wanted.every(function (word) { return texts[n].includes(word); });
        left += row.hidden ? 0 : 1;
      });
      said.textContent = wanted.length ? left + " of " + rows.length + " rows" : "";
    });
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead th").forEach(sortable);
    filterable(table);
  });
})();
