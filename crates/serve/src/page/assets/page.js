'use strict';

// The status page. One stream of events drives it; nothing is polled. Names and messages come from a database and are only ever
// inserted as text.

const STALE_AFTER_MS = 5000; // without an event for so long the page says so
const SILENT_AFTER_MS = 15000; // an open stream that says nothing for so long is opened anew
const HOUR = 3600;
const STALENESS = [30, 300]; // seconds from which it is a warning, and bad; a whole projection's group is never very fresh
const ROOM_USED = [0.75, 0.9]; // of what the slot may retain
const LEVELS = ['ok', 'info', 'warn', 'bad'];
const SIGNS = { ok: '✓', info: '●', warn: '▲', bad: '■', unknown: '?' };
const STATES = { live: 'ok', registered: 'info', building: 'info', degraded: 'warn', faulted: 'bad' };
const INSTANCE_STATES = { leading: 'ok', standby: 'info', starting: 'info', 'setting up again': 'warn' };
const OUTCOMES = { different: 'bad', failed: 'warn' };

// --- Documents

const byId = id => document.getElementById(id);

/** An element with attributes and children; strings become text, null is left out. */
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) setAttribute(node, name, value);
  node.append(...children.filter(child => child != null));
  return node;
}

/** Touches the document only for a change, so that a selection survives the next second. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (value == null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

const dot = level => make('span', { class: `dot level-${level}`, 'aria-hidden': 'true' });

/** A shape and a word in an element. */
function showState(node, text, level) {
  node.className = 'mark';
  if (!node.firstChild) node.append(dot(level), make('span'));
  setAttribute(node.firstChild, 'class', `dot level-${level}`);
  setText(node.lastChild, text);
}

const partsOf = new WeakMap();

/** Makes a parent's children those of the items, keeps what is there, and keeps the focus where it is. */
function showEach(parent, items, keyOf, create, update) {
  const parts = partsOf.get(parent) ?? new Map();
  partsOf.set(parent, parts);
  const wanted = new Set(items.map(keyOf));
  for (const [key, part] of parts) {
    if (wanted.has(key)) continue;
    part.node.remove();
    part.close?.();
    parts.delete(key);
  }
  const focused = document.activeElement;
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (!parts.has(key)) parts.set(key, create(item));
    const part = parts.get(key);
    if (parent.children[index] !== part.node) parent.insertBefore(part.node, parent.children[index] ?? null);
    update(part, item);
  });
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

// --- Numbers

const NONE = '–';
const wholeNumber = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const isNumber = value => Number.isFinite(value);
const count = value => isNumber(value) ? wholeNumber.format(value) : NONE;
const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? '' : 's'}`;
const brief = value => value < 10 ? String(Number(value.toFixed(value < 0.1 ? 2 : 1))) : count(value);

function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  const all = Math.max(0, seconds);
  if (all < 0.9995) return `${brief(all * 1000)} ms`;
  if (all < 59.5) return `${brief(all)} s`;
  const pair = (unit, name, part, partName) => {
    const parts = Math.round(all / part);
    const rest = parts % (unit / part);
    return `${Math.floor(parts * part / unit)} ${name}${rest ? ` ${rest} ${partName}` : ''}`;
  };
  if (all < HOUR - 0.5) return pair(60, 'min', 1, 's');
  return all < 24 * HOUR - 30 ? pair(HOUR, 'h', 60, 'min') : pair(24 * HOUR, 'd', HOUR, 'h');
}

const milliseconds = value => duration(isNumber(value) ? value / 1000 : null);

function bytes(value) {
  if (!isNumber(value)) return NONE;
  const unit = value < 1023.5 ? 0 : Math.min(5, Math.floor(Math.log2(value * 1.0005) / 10));
  return `${brief(Math.max(0, value) / 1024 ** unit)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][unit]}`;
}

/** Seconds since 1970, or null. */
function instant(text) {
  const parsed = Date.parse(text) / 1000;
  return Number.isNaN(parsed) ? null : parsed;
}

const clockTime = (seconds, length) => new Date(seconds * 1000).toTimeString().slice(0, length);

/** How long before the server's now; the coarser unit alone is enough. */
function ago(text) {
  const at = instant(text);
  if (at === null) return NONE;
  return status.at - at < 5 ? 'just now' : `${duration(status.at - at).replace(/^(\d+ (?:min|h|d)) .*/, '$1')} ago`;
}

// --- The stream

const link = { source: null, lost: false, stale: false, heardAt: 0, openedAt: 0, retry: 0 };
let status = null;

function connect() {
  disconnect();
  link.openedAt = Date.now();
  link.source = new EventSource('events');
  // History again after every gap: the server went on measuring.
  link.source.addEventListener('open', loadHistory);
  link.source.addEventListener('status', event => receive(event.data));
  link.source.addEventListener('error', () => {
    link.lost = true;
    // The browser tries again by itself, but not after an answer that is no stream.
    if (link.source.readyState === EventSource.CLOSED) link.retry = setTimeout(connect, 3000);
    showConnection();
  });
}

function disconnect() {
  clearTimeout(link.retry);
  link.source?.close();
}

function receive(text) {
  const { version, now, instance, groups, projections, ...rest } = JSON.parse(text);
  // Another version's data may need another version's page.
  if (version && status?.version && version !== status.version) location.reload();
  link.lost = false;
  link.heardAt = Date.now();
  // Any value may be null.
  const lists = { groups: groups ?? [], projections: projections ?? [] };
  status = { ...rest, ...lists, version, at: instant(now) ?? link.heardAt / 1000, instance: instance ?? {} };
  remember();
  showConnection();
  showStatus();
}

function watch() {
  const silentFor = Date.now() - Math.max(link.heardAt, link.openedAt);
  if (link.source.readyState === EventSource.OPEN && silentFor > SILENT_AFTER_MS) connect();
  showConnection();
}

function showConnection() {
  const age = Date.now() - (link.heardAt || link.openedAt);
  const stale = link.lost || age > STALE_AFTER_MS;
  const time = status && clockTime(status.at, 8);
  const heard = stale ? `last heard ${duration(Math.round(age / 1000))} ago` : `as of ${time}`;
  setText(byId('clock'), status ? heard : 'connecting…');
  document.documentElement.toggleAttribute('data-stale', stale);
  for (const banner of [byId('banner'), byId('detail-banner')]) {
    banner.hidden = !stale;
    // No age in here: an alert is read out whenever it changes.
    const shown = status ? `What is shown is from ${time}.` : 'Nothing was received yet.';
    setText(banner, stale ? `${link.lost ? 'Connection to Lockstep lost' : 'No news from Lockstep'}; trying again. ${shown}` : '');
  }
  if (link.stale === stale) return;
  link.stale = stale;
  showVerdict();
}

// --- History

const GROUP_COLUMNS = ['staleness_seconds', 'freshness_p50_ms', 'freshness_p99_ms', 'lag_bytes'];
const SLOT_COLUMNS = ['retained_bytes'];
const past = { step: 5, groups: new Map(), slot: series(SLOT_COLUMNS) };

function series(names, received) {
  const t = received?.t ?? [];
  return { t, columns: new Map(names.map(name => [name, t.map((_, index) => received[name]?.[index] ?? null)])) };
}

async function loadHistory() {
  try {
    const { step_seconds: step, groups, slot } = await (await fetch('history.json')).json();
    past.step = step ?? past.step;
    past.groups = new Map(Object.entries(groups ?? {}).map(([name, group]) => [name, series(GROUP_COLUMNS, group)]));
    past.slot = series(SLOT_COLUMNS, slot);
    if (status) showCards();
  } catch {
    // The events go on, and the charts begin now.
  }
}

function remember() {
  for (const group of status.groups) {
    if (!past.groups.has(group.name)) past.groups.set(group.name, series(GROUP_COLUMNS));
    append(past.groups.get(group.name), group);
  }
  append(past.slot, status.slot ?? {});
}

function append({ t, columns }, values) {
  const push = (at, row) => {
    t.push(at);
    columns.forEach((column, name) => column.push(row[name] ?? null));
  };
  const since = status.at - (t.at(-1) ?? -Infinity);
  if (since < past.step - 0.5) return;
  // Nothing is known of a gap, so no line crosses it.
  if (t.length && since > 3 * past.step) push(t.at(-1) + past.step, {});
  push(status.at, values);
  while (t[0] < status.at - HOUR) [t, ...columns.values()].forEach(list => list.shift());
}

// --- Charts

const FLOOR = 1; // ms; a logarithmic scale has no zero
const TIME_STEPS = [60, 120, 300, 600, 900, 1800];
const POWERS_OF_TWO = Array.from({ length: 50 }, (_, power) => 2 ** power);
const TIMES = {
  title: 'Staleness and freshness',
  height: 116,
  logarithmic: true,
  format: milliseconds,
  tick: ms => ms < 1000 ? `${ms} ms` : `${count(ms / 1000)} s`,
  lines: [
    { label: 'staleness', column: 'staleness_seconds', factor: 1000, colour: '--series-3' },
    { label: 'p99', column: 'freshness_p99_ms', colour: '--series-2', dash: [5, 3] },
    { label: 'p50', column: 'freshness_p50_ms', colour: '--series-1' },
  ],
};
const LAG = {
  title: 'Lag',
  height: 84,
  times: true,
  format: bytes,
  tick: bytes,
  lines: [{ label: 'lag', column: 'lag_bytes', colour: '--series-1', fill: true }],
};
const RETAINED = { ...LAG, title: 'Retained WAL', height: 140, lines: [{ ...LAG.lines[0], label: 'retained WAL', column: 'retained_bytes' }] };

const charts = new Set();
const eachTick = format => (_plot, ticks) => ticks.map(format);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.t = [];
    this.values = spec.lines.map(() => []);
    this.readings = spec.lines.map(() => make('b'));
    this.time = make('time');
    this.host = make('div', { role: 'img' });
    this.none = make('p', { class: 'none' }, 'no measurements yet');
    const sample = line => make('i', { class: line.dash && 'dashed', style: `color: var(${line.colour})` });
    const entries = spec.lines.map((line, index) => make('span', null, sample(line), `${line.label} `, this.readings[index]));
    this.node = make('div', { class: 'chart' }, make('p', { class: 'legend' }, ...entries, this.time), this.host, this.none);
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.host);
    charts.add(this);
  }

  close() {
    charts.delete(this);
    this.sizes.disconnect();
    this.plot?.destroy();
  }

  fit() {
    const width = this.host.clientWidth;
    if (width === 0) return;
    if (this.plot) this.plot.setSize({ width, height: this.spec.height });
    else this.plot = new uPlot(this.options(width), this.data(), this.host);
  }

  draw({ t, columns }) {
    // Only what is new is worth a drawing.
    if (this.t === t && this.drawnTo === t.at(-1)) return;
    this.t = t;
    this.drawnTo = t.at(-1);
    this.values = this.spec.lines.map(({ column, factor = 1 }) => columns.get(column).map(value => isNumber(value) ? value * factor : null));
    this.none.hidden = this.values.flat().some(isNumber);
    this.host.setAttribute('aria-label', this.summary());
    this.plot?.setData(this.data());
  }

  data() {
    const drawn = value => isNumber(value) ? Math.max(value, FLOOR) : null;
    return [this.t, ...(this.spec.logarithmic ? this.values.map(values => values.map(drawn)) : this.values)];
  }

  summary() {
    const { title, lines, format } = this.spec;
    const highest = values => values.some(isNumber) ? Math.max(...values) : null;
    const parts = lines.map(({ label }, line) => `${label} now ${format(this.values[line].at(-1))}, at most ${format(highest(this.values[line]))}`);
    return `${title} in the last hour: ${parts.join('; ')}`;
  }

  /** What is under the cursor, if it is over a chart. */
  read(index) {
    this.readings.forEach((reading, line) => setText(reading, index == null ? '' : this.spec.format(this.values[line][index])));
    setText(this.time, index == null ? '' : clockTime(this.t[index], 5));
  }

  options(width) {
    const { height, lines, logarithmic, tick, times } = this.spec;
    const axis = { stroke: () => colour('--muted'), font: '11px system-ui, sans-serif', ticks: { show: false } };
    const scale = logarithmic ? { distr: 3, range: decades } : { range: (_, low, high) => [0, Math.max(1024, (high ?? 0) * 1.1)] };
    const splits = logarithmic ? { splits: powersOfTen, filter: (_, all) => all } : { incrs: POWERS_OF_TWO };
    return {
      width,
      height,
      padding: [8, 8, times ? 0 : 8, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'hour' }, points: { size: 6 } },
      hooks: { setCursor: [plot => this.read(plot.cursor.idx)] },
      scales: { x: { range: () => this.span() }, y: scale },
      axes: [
        { ...axis, show: Boolean(times), grid: { show: false }, size: 20, gap: 2, space: 56, incrs: TIME_STEPS, values: eachTick(t => this.tickTime(t)) },
        { ...axis, grid: { stroke: () => colour('--grid'), width: 1 }, size: 60, gap: 5, space: 22, values: eachTick(tick), ...splits },
      ],
      series: [{}, ...lines.map(line => ({
        stroke: () => colour(line.colour),
        fill: line.fill && (() => `color-mix(in srgb, ${colour(line.colour)} 14%, transparent)`),
        width: 1.25,
        dash: line.dash,
        points: { show: (_plot, _line, from, to) => to - from < 2 },
      }))],
    };
  }

  /** A time of day, where it fits under its chart. */
  tickTime(t) {
    const [start, end] = this.span();
    const place = (t - start) / (end - start);
    return place > 0.04 && place < 0.97 ? clockTime(t, 5) : '';
  }

  /** The last hour, or what there is of it, but at least ten minutes. */
  span() {
    const end = this.t.at(-1) ?? Date.now() / 1000;
    return [end - Math.min(HOUR, Math.max(600, end - (this.t[0] ?? end))), end];
  }
}

function decades(_, low, high) {
  const bottom = Math.floor(Math.log10(low ?? FLOOR));
  return [10 ** bottom, 10 ** Math.max(bottom + 2, Math.ceil(Math.log10(high ?? 1000)))];
}

function powersOfTen(_plot, _axis, low, high) {
  const all = Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, power) => low * 10 ** power);
  return all.length > 4 ? all.filter((_, power) => power % 2 === 0) : all;
}

// --- Fields: labelled values, in cards, in the table and in the detail

const stateField = {
  label: 'State',
  state: true,
  descending: true,
  text: p => p.state ?? 'unknown',
  level: p => stateLevel(p),
  sort: p => LEVELS.indexOf(stateLevel(p)),
};
const alarming = (key, label, title) => (
  { label, title, number: true, text: p => count(p[key]), sort: p => p[key], level: p => p[key] > 0 ? 'warn' : 'ok' });

const COLUMNS = [
  { label: 'Projection', text: p => p.name, name: true },
  stateField,
  { label: 'Group', text: p => p.group ?? NONE, sort: p => p.group },
  { label: 'Kind', text: p => p.kind ?? NONE, sort: p => p.kind },
  { label: 'Rows', number: true, text: p => count(p.rows), sort: p => p.rows },
  {
    label: 'Last verification',
    descending: true,
    text: p => verified(p.last_verification),
    level: p => OUTCOMES[p.last_verification?.outcome],
    sort: p => instant(p.last_verification?.finished_at),
  },
  alarming('drift_rows', 'Drift', 'Rows found wrong although no change explains it'),
  alarming('quarantined', 'Quarantine', 'Keys that fail and are set aside'),
  {
    label: 'View age',
    title: 'How long ago the last good refresh of its materialized view began',
    number: true,
    text: p => `${viewFailed(p) ? 'failed · ' : ''}${duration(p.view?.staleness_seconds)}`,
    level: p => viewFailed(p) ? 'warn' : 'ok',
    sort: p => p.view?.staleness_seconds,
  },
];
const FACTS = [
  ...COLUMNS.slice(1),
  { label: 'View’s last refresh took', text: p => milliseconds(p.view?.last_duration_ms) },
  { label: 'Rows compared', text: p => count(p.last_verification?.compared) },
];
const GROUP_NOW = [
  {
    label: 'Staleness',
    title: 'How long ago the read models were last known to be current',
    text: g => duration(g.staleness_seconds),
    level: g => stalenessLevel(g),
  },
  { label: 'Freshness p50', title: 'From a commit in the source until the read model has it', text: g => milliseconds(g.freshness_p50_ms) },
  { label: 'p99', text: g => milliseconds(g.freshness_p99_ms) },
  { label: 'Lag', title: 'WAL written after the group’s position', text: g => bytes(g.lag_bytes) },
];
const GROUP_WORK = [
  { label: 'Dirty keys', title: 'Keys of changed rows that wait', text: g => count(g.dirty_keys) },
  { label: 'Batches', text: g => count(g.batches) },
  { label: 'Last batch', text: g => milliseconds(g.batch_ms) },
  { label: 'Its fence', title: 'How long it waited until its keys were complete for one snapshot', text: g => milliseconds(g.fence_ms) },
];
const SLOT = [
  { label: 'Retained WAL', text: s => bytes(s.retained_bytes) },
  {
    label: 'Head-room',
    title: 'WAL that may still be written before the slot is lost',
    text: s => s.safe_bytes < 0 ? 'no limit' : bytes(s.safe_bytes),
    level: s => levelAbove(roomUsed(s), ROOM_USED),
  },
  { label: 'WAL status', text: s => s.wal_status ?? NONE, level: s => ['lost', 'unreserved'].includes(s.wal_status) ? 'bad' : 'ok' },
];

const viewFailed = projection => projection.view?.success === false;
const stateLevel = projection => STATES[projection.state] ?? 'warn';
const levelAbove = (value, [warn, bad]) => value >= bad ? 'bad' : value >= warn ? 'warn' : 'ok';
const stalenessLevel = group => levelAbove(group.staleness_seconds, STALENESS);

function verified(verification) {
  if (!verification) return NONE;
  const { outcome, finished_at: finished, differing } = verification;
  return [`${outcome ?? 'unknown'}${differing > 0 ? ` (${count(differing)})` : ''}`, finished && ago(finished)].filter(Boolean).join(' · ');
}

/** The used share of what max_slot_wal_keep_size allows; null without a limit. */
function roomUsed({ retained_bytes: retained, safe_bytes: safe }) {
  return isNumber(retained) && isNumber(safe) && safe >= 0 ? retained / Math.max(1, retained + safe) : null;
}

function showField(node, field, item) {
  const text = field.text(item);
  const level = field.level?.(item) ?? 'ok';
  if (field.state) showState(node, text, level);
  else {
    setText(node, text);
    setAttribute(node, 'class', level === 'ok' ? null : `level-${level}`);
  }
}

function makeStats(look, fields) {
  const values = fields.map(() => make('dd'));
  const pairs = fields.map(({ label, title }, index) => make('div', { title }, make('dt', null, label), values[index]));
  const node = make('dl', { class: look }, ...pairs);
  return { node, update: item => fields.forEach((field, index) => showField(values[index], field, item)) };
}

// --- Cards

function makeGroupCard({ name }) {
  const members = make('small');
  const lsn = make('code', { class: 'muted', title: 'The position in the source’s WAL that the tables contain' });
  const stats = [makeStats('stats large', GROUP_NOW), makeStats('stats small', GROUP_WORK)];
  const drawings = [new Chart(TIMES), new Chart(LAG)];
  const head = make('header', null, make('h3', null, `${name} `, members), lsn);
  const node = make('article', { class: 'card', 'aria-label': `group ${name}` }, head, ...[...stats, ...drawings].map(part => part.node));
  const update = group => {
    setText(members, plural(status.projections.filter(projection => projection.group === name).length, 'projection'));
    setText(lsn, group.lsn ?? '');
    stats.forEach(part => part.update(group));
    drawings.forEach(chart => chart.draw(past.groups.get(name) ?? series(GROUP_COLUMNS)));
  };
  return { node, update, close: () => drawings.forEach(chart => chart.close()) };
}

function makeSlotCard() {
  const [title, activity, words] = [make('h3'), make('span'), make('p', { class: 'muted' })];
  const stats = makeStats('stats large', SLOT);
  const meter = make('meter', { 'aria-label': 'used of what the slot may retain', low: ROOM_USED[0], high: ROOM_USED[1], optimum: 0 });
  const chart = new Chart(RETAINED);
  const head = make('header', null, title, activity);
  const node = make('article', { class: 'card', 'aria-label': 'replication slot' }, head, stats.node, meter, words, chart.node);
  const update = slot => {
    setText(title, `Slot ${slot.name ?? ''}`);
    activity.hidden = slot.active == null;
    showState(activity, slot.active ? 'active' : 'not active', slot.active ? 'ok' : 'warn');
    stats.update(slot);
    const used = roomUsed(slot);
    meter.hidden = used === null;
    meter.value = used ?? 0;
    const limit = slot.safe_bytes < 0 ? 'The server sets no limit (max_slot_wal_keep_size).' : '';
    setText(words, used === null ? limit : `${(used * 100).toFixed(used < 0.1 ? 1 : 0)} % of ${bytes(slot.retained_bytes + slot.safe_bytes)} used`);
    chart.draw(past.slot);
  };
  return { node, update, close: () => chart.close() };
}

function showCards() {
  const groups = status.groups.map(group => ({ key: `group ${group.name}`, shown: group, create: makeGroupCard }));
  const slots = status.slot ? [{ key: 'slot', shown: status.slot, create: makeSlotCard }] : [];
  const cards = [...groups, ...slots];
  byId('cards').hidden = cards.length === 0;
  showEach(byId('groups'), cards, ({ key }) => key, ({ create, shown }) => create(shown), (card, { shown }) => card.update(shown));
}

// --- Verdict

const severity = ({ level }) => LEVELS.indexOf(level);
const worstFirst = projections => [...projections].sort((a, b) => stateField.sort(b) - stateField.sort(a));

/** All that somebody should look at, worst first. */
function problemsOf({ instance, groups, projections, slot }) {
  const ofProjections = worstFirst(projections).flatMap(projectionProblems);
  const all = [...instanceProblems(instance), ...slotProblems(slot, instance), ...ofProjections, ...groups.flatMap(groupProblems)];
  return all.sort((a, b) => severity(b) - severity(a));
}

function instanceProblems({ state, note }) {
  const level = INSTANCE_STATES[state] ?? 'info';
  if (level === 'ok' && !note) return [];
  const explained = note ?? (state === 'standby' ? 'another one writes' : '');
  return [{ level: level === 'ok' ? 'info' : level, text: `This instance is ${state ?? 'in an unknown state'}${explained ? `: ${explained}` : ''}` }];
}

function slotProblems(slot, { state }) {
  const leading = state === 'leading';
  if (!slot) return leading ? [{ level: 'warn', text: 'There is no replication slot' }] : [];
  const used = levelAbove(roomUsed(slot), ROOM_USED);
  return [
    slot.wal_status === 'lost' && { level: 'bad', text: `Slot ${slot.name} is lost: the server removed WAL that it needed` },
    slot.wal_status === 'unreserved' && { level: 'bad', text: `Slot ${slot.name} retains more than it may, and can be lost at the next checkpoint` },
    used !== 'ok' && { level: used, text: `Slot ${slot.name} is lost when ${bytes(slot.safe_bytes)} more of WAL are written` },
    slot.active === false && leading && { level: 'warn', text: `Slot ${slot.name} is not active: nothing is streamed` },
  ].filter(Boolean);
}

function projectionProblems({ name, state, reason, hint, quarantined, drift_rows: drift, last_verification: verification, view }) {
  const outcome = verification?.outcome;
  const unexplained = drift > 0 && !['equal', 'repaired', 'different'].includes(outcome);
  return [
    state !== 'live' && { level: stateLevel({ state }), text: `is ${state ?? 'in an unknown state'}${reason ? `: ${reason}` : ''}`, hint },
    state === 'live' && reason && { level: 'info', text: `is live. ${reason}`, hint },
    outcome === 'different' && { level: 'bad', text: `differs from its query in ${plural(verification.differing, 'row')}` },
    outcome === 'failed' && { level: 'warn', text: 'could not be verified' },
    unexplained && { level: 'warn', text: `had ${plural(drift, 'row')} that no change explains` },
    quarantined > 0 && { level: 'warn', text: `has ${plural(quarantined, 'key')} in quarantine` },
    view?.success === false && { level: 'warn', text: 'has a materialized view whose last refresh failed' },
  ].filter(Boolean).map(problem => ({ ...problem, name }));
}

function groupProblems(group) {
  const level = stalenessLevel(group);
  return level === 'ok' ? [] : [{ level, text: `Group ${group.name} is stale: ${duration(group.staleness_seconds)}, ${bytes(group.lag_bytes)} behind` }];
}

/** "1 faulted · 12 live". */
function countsOf(projections) {
  const counts = new Map();
  for (const { state } of worstFirst(projections)) counts.set(state, (counts.get(state) ?? 0) + 1);
  if (counts.size === 0) return 'No projections yet';
  const parts = [...counts].map(([state, number]) => [number, state ?? 'unknown']);
  if (parts.length > 1) return parts.map(part => part.join(' ')).join(' · ');
  return `${projections.length > 1 ? 'All ' : ''}${plural(projections.length, 'projection')} ${parts[0][1]}`;
}

function paceOf(groups) {
  // A group that is set aside has no pace; what ails it is told among the problems.
  const going = groups.filter(group => !group.set_aside);
  const worst = key => going.filter(group => isNumber(group[key])).sort((a, b) => b[key] - a[key])[0];
  const told = (what, group, value) => group && `${what} ${going.length > 1 ? `at most ${value} (group ${group.name})` : value}`;
  const [slowest, stalest] = [worst('freshness_p50_ms'), worst('staleness_seconds')];
  return [
    told('freshness', slowest, milliseconds(slowest?.freshness_p50_ms)),
    told('staleness', stalest, duration(stalest?.staleness_seconds)),
  ].filter(Boolean);
}

function showVerdict() {
  if (!status) return;
  const problems = problemsOf(status);
  const worst = LEVELS[Math.max(status.projections.length ? 0 : 1, ...problems.map(severity))];
  const level = link.stale ? 'unknown' : worst;
  const counts = countsOf(status.projections);
  byId('verdict').dataset.level = level;
  setText(byId('sign'), SIGNS[level]);
  setText(byId('headline'), [link.stale ? `Last known: ${counts}` : counts, ...paceOf(status.groups)].join(' · '));
  // Read out when it changes, so without what changes every second.
  setText(byId('announcement'), link.stale ? '' : `${counts}. ${plural(problems.length, 'problem')}.`);
  document.title = `${SIGNS[level]} ${link.stale ? 'not connected' : counts} – Lockstep`;
  // A problem stays the same while its first words do: numbers in it may change.
  showEach(byId('problems'), problems, ({ name, text }) => `${name} ${text.slice(0, 12)}`, makeProblem, (part, problem) => part.update(problem));
}

function makeProblem({ name }) {
  const [level, text, hint] = [dot('ok'), make('span'), make('span', { class: 'muted' })];
  const words = make('p', null, ...(name ? [make('a', { href: hashOf(name) }, name), ' '] : []), text, hint);
  const update = problem => {
    level.className = `dot level-${problem.level}`;
    setText(text, problem.text);
    setText(hint, problem.hint ? ` ${problem.hint}` : '');
  };
  return { node: make('li', null, level, words), update };
}

// --- Table

const table = { column: stateField, descending: true };
const collator = new Intl.Collator('en', { numeric: true });
const hashOf = name => `#projection=${encodeURIComponent(name)}`;
const look = column => column.label.toLowerCase().replaceAll(' ', '-') + (column.number ? ' number' : '');

function makeHeadings() {
  for (const column of COLUMNS) {
    const button = make('button', { type: 'button', title: column.title }, column.label);
    button.addEventListener('click', () => sortBy(column));
    column.heading = make('th', { role: 'columnheader', scope: 'col', class: look(column) }, button);
    byId('columns').append(column.heading);
  }
}

function sortBy(column) {
  table.descending = table.column === column ? !table.descending : Boolean(column.descending || column.number);
  table.column = column;
  showTable();
}

/** Unknown values come last whichever way it is sorted. */
function inOrder(a, b) {
  const { sort, text } = table.column;
  const [left, right] = [a, b].map(projection => (sort ?? text)(projection) ?? null);
  const byName = collator.compare(a.name, b.name);
  if (left === null || right === null) return (left === null) - (right === null) || byName;
  const order = typeof left === 'string' ? collator.compare(left, right) : left - right;
  return (table.descending ? -order : order) || byName;
}

function showTable() {
  if (!status) return;
  const direction = table.descending ? 'descending' : 'ascending';
  for (const column of COLUMNS) setAttribute(column.heading, 'aria-sort', column === table.column ? direction : null);
  const sorted = [...status.projections].sort(inOrder);
  showEach(byId('rows'), sorted, projection => projection.name, makeRow, (row, projection) => row.update(projection));
  setText(byId('projection-count'), count(sorted.length));
  byId('no-rows').hidden = sorted.length > 0;
}

function makeRow({ name }) {
  const values = COLUMNS.map(column => column.name ? make('a', { href: hashOf(name) }) : make('span'));
  const cells = COLUMNS.map((column, index) => make('td', { role: 'cell', class: look(column), 'data-label': column.label }, values[index]));
  const node = make('tr', { role: 'row' }, ...cells);
  // The link serves the keyboard; for the mouse the whole row does, unless it selects text.
  node.addEventListener('click', event => {
    if (!event.target.closest('a') && String(getSelection()) === '') location.hash = hashOf(name);
  });
  const update = projection => COLUMNS.forEach((column, index) => {
    showField(values[index], column, projection);
    cells[index].classList.toggle('quiet', [NONE, '0'].includes(values[index].textContent));
  });
  return { node, update };
}

// --- Detail

let detail = null; // { name, stats, notes } while it is open

/** Opens, changes or closes the detail as the address says. */
function followAddress() {
  const name = nameInAddress();
  if (name === null) return byId('detail').close();
  if (!byId('detail').open) byId('detail').showModal();
  if (name === detail?.name) return;
  detail = { name, stats: makeStats('facts', FACTS), notes: make('div') };
  setText(byId('detail-name'), name);
  byId('detail-facts').replaceChildren(detail.notes, detail.stats.node);
  showDetail();
  loadPlan(name);
}

function nameInAddress() {
  const prefix = '#projection=';
  try {
    return location.hash.startsWith(prefix) ? decodeURIComponent(location.hash.slice(prefix.length)) : null;
  } catch {
    return null; // not an address that this page made
  }
}

function forgetDetail() {
  detail = null;
  if (nameInAddress() !== null) history.pushState(null, '', location.pathname + location.search);
}

function showDetail() {
  if (!detail || !status) return;
  const projection = status.projections.find(({ name }) => name === detail.name) ?? { state: 'not among the projections' };
  detail.stats.update(projection);
  const level = stateLevel(projection);
  const listed = projection.quarantined > 0 ? '“lockstep quarantine” lists the keys that are set aside, and why.' : null;
  const notes = [[projection.reason, level], [projection.hint, 'info'], [listed, 'info']].filter(([text]) => text);
  const note = ([text]) => ({ node: make('p', null, text) });
  showEach(detail.notes, notes, ([text]) => text, note, ({ node }, [, noteLevel]) => setAttribute(node, 'class', `note ${noteLevel}`));
}

async function loadPlan(name) {
  byId('detail-plan').replaceChildren(make('p', { class: 'muted' }, 'Loading…'));
  let content;
  try {
    const response = await fetch(`plans/${encodeURIComponent(name)}`);
    const received = await response.json();
    content = response.ok ? planTree(name, received) : [make('p', { class: 'note warn' }, received.error ?? response.statusText)];
  } catch {
    content = [make('p', { class: 'note warn' }, 'The plan could not be loaded.')];
  }
  if (detail?.name === name) byId('detail-plan').replaceChildren(...content);
}

// --- Plan

const item = (box, children = []) => make('li', null, box, children.length ? make('ul', null, ...children) : null);
const muted = text => make('span', { class: 'muted' }, text);
const code = text => make('code', null, text);
const paragraph = (...content) => make('p', null, ...content);
const folded = (title, ...content) => make('details', null, make('summary', null, title), ...content);

function box(badge, head, ...content) {
  return make('div', { class: 'node' }, make('p', { class: 'head' }, make('span', { class: `badge ${badge}` }, badge), ...head), ...content);
}

/** The projection as a tree, its hidden parts as subtrees, and its query. */
function planTree(name, views) {
  const root = views.find(view => view.name === name);
  if (!root) return [paragraph('There is no plan.')];
  const parts = new Map(views.filter(view => view !== root).map(view => [view.name, view]));
  return [make('ul', { class: 'tree' }, projectionItem(root, parts)), make('h3', null, 'Its query, as PostgreSQL prints it'), ...queryOf(root)];
}

/** `parts` are those not drawn yet; each is drawn under what reads it. */
function projectionItem(view, parts) {
  const hidden = Boolean(view.part_of);
  const key = paragraph(muted('key '), code(view.key?.join(', ') || 'none'), muted(' · group '), view.group ?? NONE);
  const why = view.reason ? make('p', { class: 'note warn' }, `Not incremental, because ${view.reason}.`) : null;
  const head = [make('b', null, view.name), hidden ? muted('hidden part') : ''];
  const root = box(view.kind, head, paragraph(manner(view)), key, why, hidden ? folded('query', ...queryOf(view)) : null);
  root.classList.add('projection');
  const groups = view.groups ? [item(box('groups', [view.groups]))] : [];
  const children = [...groups, ...relationItems(view, parts), ...(view.state ?? []).map(stateItem)];
  while (!hidden && parts.size) children.push(projectionItem(take(parts, parts.keys().next().value), parts));
  return item(root, children);
}

function take(parts, name) {
  const part = parts.get(name);
  parts.delete(name);
  return part;
}

function manner({ reads, reason, incremental }) {
  if (reason) return reads?.length ? `recomputed from ${reads.join(', ')} when that has changed` : 'recomputed when a relation changes';
  return incremental ? 'incremental: a change costs what the rows it affects cost' : 'incremental for some of its relations';
}

function relationItems(view, parts) {
  const all = view.relations ?? [];
  const branches = [...new Set(all.map(relation => relation.branch))];
  const items = relations => relations.map(relation => relationItem(view, relation, parts));
  if (branches.length < 2) return items(all);
  const title = branch => box('branch', [`${branch} of ${branches.length}`]);
  return branches.map(branch => item(title(branch), items(all.filter(relation => relation.branch === branch))));
}

function relationItem(view, { relation, alias, role, reason, missing_indexes: missing }, parts) {
  const read = view.reads?.find(name => relation.endsWith(`.${name}`));
  const part = take(parts, read);
  const name = read && !part ? make('a', { href: hashOf(read) }, code(relation)) : code(relation);
  const also = alias && !relation.endsWith(`.${alias}`) ? [muted('as'), code(alias)] : [];
  const indexes = (missing ?? []).map(index => make('code', { class: 'index' }, index));
  const warning = indexes.length ? make('div', { class: 'note warn' }, 'An index is missing on the source:', ...indexes) : null;
  // A whole projection's reason stands at its root, once.
  const own = reason && reason !== view.reason ? paragraph(reason) : null;
  return item(box(role, [name, ...also], own, warning), part ? [projectionItem(part, parts)] : []);
}

function stateItem({ table: name, purpose, columns }) {
  return item(box('state', [code(name)], paragraph(purpose), folded(plural(columns.length, 'column'), code(columns.join(', ')))));
}

function queryOf({ query, position, reason }) {
  if (!isNumber(position)) return [make('pre', { tabindex: '0' }, query)];
  // The position counts bytes.
  const before = new TextDecoder().decode(new TextEncoder().encode(query).subarray(0, position));
  const rest = query.slice(before.length);
  const [word] = /^(?:"[^"]*"|[\p{L}\p{N}_$]+|\S)?/u.exec(rest);
  const mark = make('mark', { title: reason }, word || '▏');
  return [paragraph('Marked is why it is not incremental.'), make('pre', { tabindex: '0' }, before, mark, rest.slice(word.length))];
}

// --- The page

function showStatus() {
  const { instance, at, version, source, target } = status;
  const since = instant(instance.since);
  setText(byId('version'), version ?? '');
  const instanceText = `${instance.state ?? 'state unknown'}${since === null ? '' : ` for ${duration(at - since)}`}`;
  showState(byId('instance'), instanceText, INSTANCE_STATES[instance.state] ?? 'info');
  byId('route').hidden = !source && !target;
  setText(byId('source'), source ?? NONE);
  setText(byId('target'), target ?? NONE);
  showVerdict();
  showCards();
  showTable();
  showDetail();
}

function start() {
  makeHeadings();
  const dialog = byId('detail');
  dialog.addEventListener('close', forgetDetail);
  // A click beside the dialog's content is one on its backdrop.
  dialog.addEventListener('click', event => event.target === dialog && dialog.close());
  byId('detail-close').addEventListener('click', () => dialog.close());
  addEventListener('hashchange', followAddress);
  addEventListener('popstate', followAddress);
  // A page that the browser keeps to come back to holds no connection.
  addEventListener('pagehide', disconnect);
  addEventListener('pageshow', event => event.persisted && connect());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => charts.forEach(chart => chart.plot?.redraw()));
  connect();
  setInterval(watch, 1000);
  followAddress();
}

start();
