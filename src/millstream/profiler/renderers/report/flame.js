// The calls of one request by depth over time. A call that overlaps another in its row moves a row down.
// `prefix` begins the ids of its elements: a page may hold several.
const flameGraph = (data, chosen, prefix) => {
  const MAX_BARS = 1500, MAX_ROWS = 60, ROW_PX = 22, SLOTS = 300;
  const part = (name) => at(prefix + name), graph = part("flame");
  let request = null, parents = [], rows = [], from = 0, to = 1, bars = new Map(), current = -1;

  const end = (span) => (span[LENGTH] < 0 ? request.w : span[START] + span[LENGTH]);

  function layOut() {
    const spans = request.r, path = [], free = new Float64Array(MAX_ROWS).fill(-Infinity);
    parents = spans.map((span, index) => {
      path.length = span[DEPTH];
      path.push(index);
      return span[DEPTH] > 0 ? path[span[DEPTH] - 1] ?? -1 : -1;
    });
    rows = new Int32Array(spans.length).fill(-1);
    const byStart = spans.map((_, index) => index).sort((a, b) => spans[a][START] - spans[b][START] || a - b);
    for (const index of byStart) {
      const above = parents[index];
      let row = above < 0 ? 0 : (rows[above] >= 0 ? rows[above] : parents[above] < 0 ? 0 : MAX_ROWS) + 1;
      while (row < MAX_ROWS && free[row] > spans[index][START]) row++;
      if (row >= MAX_ROWS) continue;
      rows[index] = row;
      free[row] = end(spans[index]);
    }
  }

  function bar(index, row) {
    const span = request.r[index], whole = to - from, kind = data.kinds[span[KIND]], name = data.names[span[NAME]];
    const left = Math.min(Math.max((span[START] - from) / whole, 0), 0.999), right = Math.min((end(span) - from) / whole, 1);
    const status = data.statuses[span[STATUS]] || "", bad = status !== "" && status !== "ok";
    const button = make("button", name, `k-${kind}`);
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.index = String(index);
    button.style.left = `${100 * left}%`;
    button.style.width = `${100 * Math.max(right - left, 0)}%`;
    button.style.top = `${row * ROW_PX}px`;
    button.classList.toggle("critical", span[CRITICAL] > 0);
    button.classList.toggle("failed", bad);
    button.classList.toggle("open", span[LENGTH] < 0);
    const told = `${name}, ${kind}, ${span[LENGTH] < 0 ? "open" : seconds(span[LENGTH])}, starts at +${seconds(span[START])}${bad ? `, ${status}` : ""}`;
    button.setAttribute("aria-label", told);
    button.title = told;
    return button;
  }

  // Those to draw, the longest first: what is thinner than a slot is drawn where no other call is in it.
  function visible(inWindow) {
    const spans = request.r, whole = to - from, taken = new Set(), shown = [];
    const slot = (us) => Math.floor(Math.min(Math.max((us - from) / whole, 0), 1) * (SLOTS - 1));
    const length = (index) => Math.min(end(spans[index]), to) - Math.max(spans[index][START], from);
    for (const index of inWindow.sort((a, b) => length(b) - length(a) || a - b)) {
      if (shown.length === MAX_BARS) break;
      const row = rows[index] * SLOTS, first = slot(spans[index][START]), last = slot(end(spans[index]));
      if (length(index) * SLOTS < whole && taken.has(row + first)) continue;
      for (let at = first; at <= last; at++) taken.add(row + at);
      shown.push(index);
    }
    return shown;
  }

  function draw() {
    const spans = request.r, inWindow = [];
    for (let index = 0; index < spans.length; index++)
      if (rows[index] >= 0 && spans[index][START] <= to && end(spans[index]) >= from) inWindow.push(index);
    const shown = visible(inWindow);
    shown.sort((a, b) => rows[a] - rows[b] || spans[a][START] - spans[b][START]);
    const used = [...new Set(shown.map((index) => rows[index]))].sort((a, b) => a - b);
    const place = new Map(used.map((row, number) => [row, number]));
    bars = new Map(shown.map((index) => [index, bar(index, place.get(rows[index]))]));
    graph.replaceChildren(...bars.values());
    graph.style.height = `${used.length * ROW_PX}px`;
    part("flame-scale").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => make("span", seconds(from + share * (to - from)))));
    const zoomed = from > 0 || to < request.w;
    part("zoom-out").disabled = !zoomed;
    const left = (zoomed ? inWindow.length : spans.length) - shown.length;
    part("flame-note").textContent = `${shown.length.toLocaleString("en")} calls in ${used.length} rows, ${seconds(from)} to ${seconds(to)}.`
      + (left > 0 ? ` ${left.toLocaleString("en")} more are too short or too deep to draw: zoom in, or see the waterfall.` : "");
    mark(current, false);
  }

  function mark(index, focus) {
    bars.get(current)?.removeAttribute("aria-current");
    for (const one of [bars.get(current), bars.values().next().value]) if (one) one.tabIndex = -1;
    current = index;
    const button = bars.get(index);
    (button ?? bars.values().next().value ?? graph).tabIndex = 0;
    button?.setAttribute("aria-current", "true");
    if (focus) button?.focus();
    part("zoom-in").disabled = !request.r[index] || !(end(request.r[index]) > request.r[index][START]);
  }

  function neighbour(key, index) {
    const order = [...bars.keys()], here = order.indexOf(index), row = order.filter((one) => rows[one] === rows[index]);
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const there = order[here + (key === "ArrowRight" ? 1 : -1)];
      return rows[there] === rows[index] ? there : index;
    }
    if (key === "Home") return row[0];
    if (key === "End") return row[row.length - 1];
    if (key === "ArrowUp") return bars.has(parents[index]) ? parents[index] : index;
    if (key === "ArrowDown") return order.find((one) => parents[one] === index) ?? index;
    return undefined;
  }

  graph.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) chosen(Number(button.dataset.index));
  });
  graph.addEventListener("keydown", (event) => {
    const button = event.target.closest("button");
    const there = button && neighbour(event.key, Number(button.dataset.index));
    if (there === undefined || there === null) return;
    event.preventDefault();
    chosen(there);
    bars.get(there)?.focus();
  });
  part("zoom-in").addEventListener("click", () => {
    const span = request.r[current];
    [from, to] = [span[START], end(span)];
    draw();
    bars.get(current)?.focus();
  });
  part("zoom-out").addEventListener("click", () => {
    [from, to] = [0, request.w || 1];
    draw();
    bars.get(current)?.focus();
  });

  return {
    show(one) {
      [request, current, from, to] = [one, -1, 0, one.w || 1];
      layOut();
      draw();
    },
    mark,
  };
};
