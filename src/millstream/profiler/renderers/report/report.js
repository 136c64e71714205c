(() => {
  const FIRST_ROWS = 400, MORE_ROWS = 5000, INDENT_PX = 14, DEEPEST = 16;
  const chooser = at("request"), timeline = at("timeline"), body = at("calls"), details = at("details");
  if (!chooser) return;
  let request = null, buttons = [];
  const flame = flameGraph(data, (index) => show(index, false), "");

  const options = document.createDocumentFragment();
  for (const [index, one] of data.requests.entries()) {
    const outcome = one.o === "ok" ? "" : ` · ${one.o}`, option = make("option");
    option.textContent = `#${one.n}${one.i ? ` · ${one.i.slice(0, 40)}` : ""} · ${one.d === null ? "no end" : seconds(one.d)} · ${one.t.slice(0, 8)}${outcome}`;
    option.value = String(index);
    options.append(option);
  }
  chooser.append(options);

  function row(span, index) {
    const status = data.statuses[span[STATUS]] || "", kind = data.kinds[span[KIND]], open = span[LENGTH] < 0;
    const tr = make("tr");
    tr.dataset.index = String(index);
    tr.setAttribute("aria-selected", "false");
    const head = make("th");
    head.scope = "row";
    const button = make("button", undefined, `k-${kind}`);
    button.append(make("span", data.names[span[NAME]], "name"));
    button.type = "button";
    button.tabIndex = -1;
    button.style.paddingLeft = `${Math.min(span[DEPTH], DEEPEST) * INDENT_PX}px`;
    button.title = `${kind} ${data.names[span[NAME]]}`;
    const mark = open ? "✕ open" : status && status !== "ok" ? `✕ ${status}` : "";
    if (mark) button.append(make("span", mark, "not-ok"));
    head.append(button);
    const lane = make("div", undefined, "lane"), bar = make("div", undefined, `span-bar k-${kind}`);
    const whole = request.w || 1, left = Math.min(100 * span[START] / whole, 99.8);
    bar.style.left = `${left}%`;
    bar.style.width = `${open ? 100 - left : Math.min(100 * span[LENGTH] / whole, 100 - left)}%`;
    bar.classList.toggle("critical", span[CRITICAL] > 0);
    bar.classList.toggle("failed", status !== "" && status !== "ok");
    bar.classList.toggle("open", open);
    lane.append(bar);
    lane.setAttribute("aria-hidden", "true");
    const cell = make("td");
    cell.append(lane);
    tr.append(head, make("td", `+${seconds(span[START])}`, "n"), make("td", seconds(span[LENGTH]), "n"), cell);
    return tr;
  }

  function fill(from, to) {
    const rows = document.createDocumentFragment();
    for (let index = from; index < to; index++) rows.append(row(request.r[index], index));
    body.append(rows);
    buttons = [...body.querySelectorAll("button")];
    const more = at("more"), left = request.r.length - to;
    more.hidden = left <= 0;
    more.textContent = `Show ${left > MORE_ROWS ? `${MORE_ROWS.toLocaleString("en")} of ` : ""}${left.toLocaleString("en")} more calls`;
  }

  function pretty(text) {
    try { return JSON.parse(text); } catch { return undefined; }
  }

  function said(message, into) {
    into.append(make("div", String(message.role ?? "message"), "role"));
    const parts = [];
    if (message.content !== null && message.content !== undefined && message.content !== "")
      parts.push(typeof message.content === "string" ? message.content : JSON.stringify(message.content, null, 2));
    for (const call of message.tool_calls ?? [])
      parts.push(`→ ${call.function?.name ?? "tool"}(${call.function?.arguments ?? ""})`);
    into.append(make("pre", parts.join("\n") || "(empty)"));
  }

  function content(title, text, into) {
    if (!text) return;
    into.append(make("h4", title));
    const value = pretty(text);
    const messages = Array.isArray(value) ? value : [value];
    if (messages.length && messages.every((one) => one && typeof one === "object" && "role" in one))
      for (const message of messages) said(message, into);
    else into.append(make("pre", value !== undefined && typeof value === "object" ? JSON.stringify(value, null, 2) : text));
  }

  function show(index, focus) {
    const span = request.r[index];
    if (!span) return;
    for (const tr of body.querySelectorAll('[aria-selected="true"]')) tr.setAttribute("aria-selected", "false");
    body.children[index]?.setAttribute("aria-selected", "true");
    for (const button of body.querySelectorAll('[tabindex="0"]')) button.tabIndex = -1;
    (buttons[index] ?? buttons[0]).tabIndex = 0;
    if (focus) buttons[index]?.focus();
    const status = span[LENGTH] < 0 ? data.statuses[span[STATUS]] || "open" : data.statuses[span[STATUS]] || "no status";
    const kind = data.kinds[span[KIND]];
    details.replaceChildren(make("h3", data.names[span[NAME]]), make("span", kind, `chip k-${kind}`));
    const list = make("dl");
    const fact = (term, value) => list.append(make("dt", term), make("dd", value));
    fact("Status", status);
    fact("Start", `+${seconds(span[START])}`);
    fact("Duration", seconds(span[LENGTH]));
    if (span[LENGTH] >= 0) fact("Self time", seconds(span[SELF]));
    if (span[CRITICAL] > 0) fact("On the critical path", seconds(span[CRITICAL]));
    if (span[TOKENS]) {
      const known = (count) => count < 0 ? "unknown" : count.toLocaleString("en");
      const [input, output, cached, reasoning] = span[TOKENS];
      fact("Input tokens", known(input) + (cached >= 0 ? ` (${known(cached)} from the provider's cache)` : ""));
      fact("Output tokens", known(output) + (reasoning >= 0 ? ` (${known(reasoning)} reasoning)` : ""));
    }
    fact("Span", span[ID]);
    details.append(list);
    const error = data.texts[span[ERROR]];
    if (error) details.append(make("h4", "Error"), make("div", error, "error"));
    content("Input", data.texts[span[INPUT]], details);
    content("Output", data.texts[span[OUTPUT]], details);
    if (data.texts[span[ATTRIBUTES]]) details.append(make("h4", "Attributes and events"), make("pre", data.texts[span[ATTRIBUTES]]));
    details.scrollTop = 0;
    timeline.dataset.span = span[ID];
    flame.mark(index, false);
  }

  function choose(index) {
    request = data.requests[index];
    if (!request) return;
    chooser.value = String(index);
    body.replaceChildren();
    fill(0, Math.min(request.r.length, FIRST_ROWS));
    const what = request.d === null ? "has not ended" : `took ${seconds(request.d)}`;
    at("shown").textContent = `Request #${request.n}, trace ${request.t}: ${request.r.length.toLocaleString("en")} calls, ${what}${request.o === "failed" || request.o === "cancelled" ? `, ${request.o}` : ""}.`;
    at("scale").replaceChildren(...[0, 0.5, 1].map((part) => make("span", seconds(part * request.w))));
    at("previous").disabled = index === 0;
    at("next").disabled = index === data.requests.length - 1;
    flame.show(request);
    const bad = request.r.findIndex((span) => span[ERROR]);
    show(Math.max(bad, 0) < FIRST_ROWS ? Math.max(bad, 0) : 0, false);
    timeline.dataset.trace = request.t;
    timeline.dataset.ready = "1";
  }

  chooser.addEventListener("change", () => choose(Number(chooser.value)));
  at("previous").addEventListener("click", () => choose(Number(chooser.value) - 1));
  at("next").addEventListener("click", () => choose(Number(chooser.value) + 1));
  at("slowest").addEventListener("click", () => choose(data.start));
  const failing = data.requests.map((one, index) => (one.o === "ok" ? -1 : index)).filter((index) => index >= 0);
  at("failed").hidden = failing.length === 0;
  at("failed").addEventListener("click", () => choose(failing.find((index) => index > Number(chooser.value)) ?? failing[0]));
  at("more").addEventListener("click", () => { const from = body.children.length; fill(from, Math.min(from + MORE_ROWS, request.r.length)); show(from, true); });
  body.addEventListener("click", (event) => {
    const tr = event.target.closest("tr");
    if (tr) show(Number(tr.dataset.index), true);
  });
  body.addEventListener("keydown", (event) => {
    const here = buttons.indexOf(document.activeElement);
    const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (there === undefined || here < 0) return;
    event.preventDefault();
    show(Math.min(Math.max(there, 0), buttons.length - 1), true);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-trace]");
    if (!button) return;
    choose(data.requests.findIndex((one) => one.t === button.dataset.trace));
    at("timeline-heading").scrollIntoView();
    chooser.focus({ preventScroll: true });
  });
  choose(data.start);
})();
