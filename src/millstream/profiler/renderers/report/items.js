// The table of items: filter, order, and the panel of one item with its timeline.
(() => {
  const table = at("item-table");
  if (!table) return;
  const { columns, items, currency } = JSON.parse(at("item-data").textContent);
  const body = at("item-rows"), rows = [...body.rows], frame = table.parentElement, panel = at("item-panel"), heading = at("item-heading");
  const form = at("item-filter"), text = at("item-text"), score = at("item-score"), bound = at("item-bound"), bad = at("item-bad");
  const places = new Map(data.requests.map((request, place) => [request.t, place]));
  const flame = at("flame") ? flameGraph(data, (index) => call(index), "item-") : null;
  const collator = new Intl.Collator("en", { numeric: true });
  // A browser lays out thousands of rows slowly: those beyond the limit wait.
  const FIRST = 200, NEAR_PX = 400;
  let shown = rows, limit = FIRST, current = -1, request = null;
  document.documentElement.classList.add("with-script");

  const words = items.map((item) => [item.id, item.question, item.expected, item.answer, item.error, ...item.scores.filter((value) => typeof value === "string"),
    ...item.reasons.map(([, , reason]) => reason)].join("\n").toLowerCase());
  for (const [index, column] of columns.entries())
    if (column.number) score.append(Object.assign(make("option", column.name), { value: String(index) }));

  function filter() {
    const wanted = text.value.trim().toLowerCase(), column = score.value === "" ? null : Number(score.value);
    const least = bound.value === "" ? null : Number(bound.value), lower = column !== null && columns[column].lower;
    bound.disabled = column === null;
    at("item-bound-label").textContent = lower ? "above" : "below";
    const passes = (index) => {
      const item = items[index], value = column === null ? null : item.scores[column];
      if (bad.checked && item.state === "") return false;
      if (column !== null && least !== null && !(value !== null && (lower ? value > least : value < least))) return false;
      return wanted === "" || words[index].includes(wanted);
    };
    shown = [...body.rows].filter((row) => passes(Number(row.dataset.index)));
    limit = FIRST;
    draw();
    step();
  }

  function draw() {
    const here = new Set(shown.slice(0, limit)), count = (n) => n.toLocaleString("en");
    for (const row of rows) row.hidden = !here.has(row);
    const all = `${shown.length < rows.length ? `${count(shown.length)} of ` : ""}${count(rows.length)} item${rows.length === 1 ? "" : "s"}`;
    at("items-shown").textContent = here.size < shown.length ? `${all}, the first ${count(here.size)} shown.` : `${all} shown.`;
    at("items-more").hidden = here.size === shown.length;
  }

  function more() {
    if (limit >= shown.length) return;
    limit += FIRST;
    draw();
  }

  const column = (by) => (/^\d+$/.test(by) ? Number(by) : null);
  const value = (index, by) => (by === "rank" ? index : column(by) === null ? items[index][by] : items[index].scores[column(by)]);
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));

  // Of a score, the first press brings the worst up. What is missing stays at the end.
  function sort(head) {
    const by = head.dataset.by, before = head.getAttribute("aria-sort");
    const down = before === "none" ? by === "runtime_s" || (column(by) !== null && columns[column(by)].lower) : before === "ascending";
    for (const one of table.tHead.rows[0].cells) one.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((row) => [value(Number(row.dataset.index), by), Number(row.dataset.index), row]);
    keyed.sort(([a, first], [b, second]) => {
      if (a === null || b === null) return (a === null) - (b === null) || first - second;
      return (down ? -compare(a, b) : compare(a, b)) || first - second;
    });
    body.append(...keyed.map(([, , row]) => row));
    filter();
    frame.scrollTop = 0;
  }

  const number = (one) => (one === null ? "missing" : one === "" ? "none" : typeof one === "number" ? String(Number(one.toPrecision(4))) : one);

  function block(title, content, className) {
    const part = make("div");
    part.append(make("h4", title), content === null ? make("p", "none", "muted") : make("pre", content === "" ? "(empty)" : content, className));
    return part;
  }

  function tell(item) {
    const facts = make("dl"), fact = (term, told) => facts.append(make("dt", term), make("dd", told));
    if (item.runtime_s !== null) fact("Time", seconds(item.runtime_s * 1e6));
    if (item.calls) fact("Model calls", item.calls);
    else if (item.cost !== undefined && item.cost !== null) fact("Cost", `${Number(item.cost.toPrecision(3))} ${currency}`);
    if (request && !item.calls) {
      const known = request.r.map((span) => span[TOKENS]).filter(Boolean);
      const sum = (place) => known.map((tokens) => tokens[place]).filter((count) => count >= 0).reduce((a, b) => a + b, 0);
      if (known.length) fact("Tokens", `${sum(0).toLocaleString("en")} in, ${sum(1).toLocaleString("en")} out`);
    }
    if (item.judges) fact("Judges", item.judges);
    if (item.trace !== null) fact("Trace", item.trace);
    const texts = make("div", undefined, "texts");
    texts.append(block("Question", item.question), block("Expected", item.expected), block("Answer", item.answer));
    const scores = make("table"), lines = make("tbody");
    scores.append(make("caption", "Scores and their reasons"), lines);
    const spoken = new Set();
    for (const [index, { name }] of columns.entries()) {
      const reason = item.reasons.find(([, names]) => names.includes(name));
      const line = make("tr"), head = make("th", name);
      head.scope = "row";
      line.append(head, make("td", number(item.scores[index]), item.scores[index] === null ? "bad" : ""));
      if (!reason) line.append(make("td", "no reason given", "muted"));
      else if (!spoken.has(reason[0])) {
        const cell = make("td", reason[2], "reason");
        cell.rowSpan = reason[1].length;
        line.append(cell);
        spoken.add(reason[0]);
      }
      lines.append(line);
    }
    const parts = [facts];
    if (item.error !== null) parts.push(make("div", item.error, "error"));
    at("item-told").replaceChildren(...parts, texts, ...(columns.length ? [scores] : []));
  }

  function call(index) {
    const span = request?.r[index];
    if (!span) return;
    const error = data.texts[span[ERROR]];
    at("item-call").textContent = `${data.names[span[NAME]]}, ${data.kinds[span[KIND]]}: ${seconds(span[LENGTH])}, starts at +${seconds(span[START])}${error ? `; ${error}` : ""}`;
    flame.mark(index, false);
  }

  function step() {
    const here = shown.findIndex((row) => Number(row.dataset.index) === current);
    at("item-previous").disabled = !shown.length || here === 0;
    at("item-next").disabled = !shown.length || here === shown.length - 1;
  }

  function open(index) {
    close(false);
    current = index;
    while (rows[index].hidden && limit < shown.length && shown.includes(rows[index])) more();
    const item = items[index], place = places.get(item.trace), row = rows[index];
    row.querySelector("button").setAttribute("aria-expanded", "true");
    row.classList.add("chosen");
    request = place === undefined ? null : data.requests[place];
    heading.textContent = `Item ${item.id}${row.querySelector("small") ? `, run ${item.rep}` : ""}${item.state === "failed" ? ": failed" : item.state === "missing" ? ": a score is missing" : ""}`;
    tell(item);
    panel.hidden = false;
    at("item-timeline").hidden = !request;
    at("item-no-timeline").textContent = request ? "" : item.trace === null ? "It was not asked in this run: there is no timeline." : "Its timeline is not in this page; the profile's files have it.";
    at("item-open").dataset.trace = item.trace ?? "";
    if (request) {
      flame.show(request);
      call(Math.max(request.r.findIndex((span) => span[ERROR]), 0));
    }
    step();
    heading.focus({ preventScroll: true });
    panel.scrollIntoView({ block: "nearest" });
  }

  function close(focus) {
    if (current < 0) return;
    const row = rows[current], button = row.querySelector("button");
    button.setAttribute("aria-expanded", "false");
    row.classList.remove("chosen");
    panel.hidden = true;
    current = -1;
    if (focus) (row.hidden ? text : button).focus();
  }

  function go(by) {
    const here = shown.findIndex((row) => Number(row.dataset.index) === current);
    const there = here < 0 ? shown[0] : shown[here + by];
    if (there) open(Number(there.dataset.index));
  }

  at("items-more").addEventListener("click", more);
  frame.addEventListener("scroll", () => { if (frame.scrollTop + frame.clientHeight > frame.scrollHeight - NEAR_PX) more(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  table.tHead.addEventListener("click", (event) => { const head = event.target.closest("th"); if (head) sort(head); });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && String(document.getSelection()) === "") open(Number(row.dataset.index));
  });
  at("item-previous").addEventListener("click", () => go(-1));
  at("item-next").addEventListener("click", () => go(1));
  at("item-close").addEventListener("click", () => close(true));
  panel.addEventListener("keydown", (event) => { if (event.key === "Escape") close(true); });
  filter();
})();
