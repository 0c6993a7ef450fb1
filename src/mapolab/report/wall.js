"use strict";
// The picture wall: filter, sort, enlarge, and votes that do not see the names. Without this script every row is shown.
(() => {
  const wall = document.getElementById("wall");
  if (!wall) return;
  const find = (id) => document.getElementById(id);
  const runs = JSON.parse(find("wall-runs").textContent);
  const rows = [...wall.querySelectorAll(".row[data-index]")];
  const first = Number(wall.dataset.first);
  const status = find("wall-status");
  const more = find("wall-more");
  let all = false;

  // ---- filter and sort
  const spread = (row, scorer) => JSON.parse(row.dataset.spread)[scorer] ?? 0;
  const evenly = (list) => {
    const last = list.length - 1;
    return new Set(Array.from({ length: Math.min(first, list.length) }, (_, i) => list[first > 1 ? Math.round((i * last) / (Math.min(first, list.length) - 1 || 1)) : 0]));
  };
  function arrange() {
    const words = find("wall-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const order = find("wall-sort").value;
    const fitting = rows.filter((row) => words.every((word) => row.dataset.prompt.toLowerCase().includes(word)));
    fitting.sort((a, b) => (order ? spread(b, order) - spread(a, order) : 0) || a.dataset.index - b.dataset.index);
    const plain = !order && !words.length;
    const seen = all ? new Set(fitting) : plain ? evenly(fitting) : new Set(fitting.slice(0, first));
    for (const row of rows) row.hidden = !seen.has(row);
    const home = wall.querySelector(".blocks");
    for (const row of fitting) home.append(row);
    const hidden = fitting.length - seen.size;
    more.hidden = !hidden && !all;
    more.textContent = all ? "Show fewer" : `Show ${hidden} more`;
    const total = wall.dataset.total;
    status.textContent = words.length ? `${fitting.length} of ${rows.length} prompts fit.` : `${seen.size} of ${total} prompts shown.`;
  }
  find("wall-filter").addEventListener("input", arrange);
  find("wall-sort").addEventListener("change", arrange);
  more.addEventListener("click", () => { all = !all; arrange(); });

  // ---- enlarge, and flip between models (left, right) and prompts (up, down)
  const viewer = find("viewer");
  let at = { row: rows[0], run: 0 };
  const visible = () => [...wall.querySelectorAll(".row[data-index]")].filter((row) => !row.hidden);
  const picture = (row, run) => row.querySelector(`button[data-run="${run}"] img`);
  function look() {
    const image = find("viewer-picture");
    image.src = picture(at.row, at.run).src;
    image.alt = `${runs[at.run].name}: ${at.row.dataset.prompt}`;
    find("viewer-name").textContent = runs[at.run].name;
    find("viewer-prompt").textContent = at.row.dataset.prompt;
    find("viewer-place").textContent = `model ${at.run + 1} of ${runs.length}`;
  }
  function step(models, prompts) {
    const list = visible();
    at.run = (at.run + models + runs.length) % runs.length;
    at.row = list[(list.indexOf(at.row) + prompts + list.length) % list.length];
    look();
  }
  wall.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-run]");
    if (!button) return;
    at = { row: button.closest(".row"), run: Number(button.dataset.run) };
    look();
    viewer.showModal();
  });
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  viewer.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    step(...keys[event.key]);
  });
  find("viewer-previous").addEventListener("click", () => step(-1, 0));
  find("viewer-next").addEventListener("click", () => step(1, 0));
  find("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => wall.querySelector(`.row[data-index="${at.row.dataset.index}"] button[data-run="${at.run}"]`).focus());

  // ---- blind votes: two pictures of one prompt and noise, no names
  const blind = find("blind");
  const votes = [];
  const asked = new Set();
  let pair = null;
  const key = (row, a, b) => [row.dataset.index, ...[a, b].sort((x, y) => x - y)].join("/");
  // Votes outlive a reload in this tab, where the browser lets pages keep something; the pictures must still be the same.
  const place = `mapolab votes ${location.pathname}`;
  function keep() {
    const plain = votes.map(({ row, runs: sides, label, time }) => ({
      index: row.dataset.index, runs: sides, uids: sides.map((run) => picture(row, run).dataset.uid), label, time,
    }));
    try { sessionStorage.setItem(place, JSON.stringify(plain)); } catch { /* then they last until the reload */ }
  }
  function recall() {
    let kept = [];
    try { kept = JSON.parse(sessionStorage.getItem(place) ?? "[]"); } catch { /* nothing to recall */ }
    for (const { index, runs: sides, uids, label, time } of kept) {
      const row = rows.find((one) => one.dataset.index === index);
      if (!row || !sides.every((run, side) => run < runs.length && picture(row, run).dataset.uid === uids[side])) continue;
      asked.add(key(row, ...sides));
      votes.push({ row, runs: sides, label, time });
    }
  }
  function draw() {
    const left = [];
    for (const row of rows) {
      for (let a = 0; a < runs.length; a++) {
        for (let b = a + 1; b < runs.length; b++) {
          // Two pictures of one method differ by chance alone, and equal ones not at all.
          const same = runs[a].method === runs[b].method || picture(row, a).dataset.uid === picture(row, b).dataset.uid;
          if (!same && !asked.has(key(row, a, b))) left.push([row, a, b]);
        }
      }
    }
    if (!left.length) return null;
    const [row, a, b] = left[Math.floor(Math.random() * left.length)];
    return Math.random() < 0.5 ? { row, runs: [a, b] } : { row, runs: [b, a] };
  }
  function ask() {
    pair = draw();
    find("blind-pair").hidden = !pair;
    if (pair) {
      find("blind-prompt").textContent = pair.row.dataset.prompt;
      pair.runs.forEach((run, side) => { find(`blind-${side}`).src = picture(pair.row, run).src; });
    } else {
      find("blind-prompt").textContent = "Every pair has been judged.";
    }
    find("blind-count").textContent = `${votes.length} ${votes.length === 1 ? "vote" : "votes"}`;
    find("blind-export").disabled = !votes.length;
  }
  function vote(label) {
    if (!pair) return;
    asked.add(key(pair.row, ...pair.runs));
    votes.push({ ...pair, label, time: new Date().toISOString() });
    keep();
    ask();
  }
  find("blind-open").addEventListener("click", () => {
    find("blind-result").replaceChildren();
    ask();
    blind.showModal();
  });
  find("vote-0").addEventListener("click", () => vote(1));
  find("vote-1").addEventListener("click", () => vote(0));
  find("vote-tie").addEventListener("click", () => vote(0.5));
  blind.addEventListener("keydown", (event) => {
    const label = { 1: 1, 2: 0, 0: 0.5, ArrowLeft: 1, ArrowRight: 0 }[event.key];
    if (label === undefined) return;
    event.preventDefault();
    vote(label);
  });
  find("blind-close").addEventListener("click", () => blind.close());
  blind.addEventListener("close", () => { tally(); find("blind-open").focus(); });

  // The names come back only when the voting has ended.
  function tally() {
    const score = new Map();
    for (const { runs: sides, label } of votes) {
      sides.forEach((run, side) => {
        const entry = score.get(runs[run].method) ?? { wins: 0, votes: 0 };
        entry.wins += side ? 1 - label : label;
        entry.votes += 1;
        score.set(runs[run].method, entry);
      });
    }
    const lines = [...score].sort((a, b) => b[1].wins / b[1].votes - a[1].wins / a[1].votes);
    const items = lines.map(([name, { wins, votes: count }]) => {
      const item = document.createElement("li");
      item.textContent = `${name}: preferred in ${wins} of ${count}`;
      return item;
    });
    find("blind-result").replaceChildren(...items);
  }

  // One row a vote, in the columns of Pick-a-Pic v2. Pictures that this page holds whole come along, as base64.
  function exported() {
    return votes.map(({ row, runs: sides, label, time }, number) => {
      const images = sides.map((run) => picture(row, run));
      const whole = wall.classList.contains("pixelated");
      const bytes = images.map((image) => (whole ? image.src.split(",")[1] : null));
      const best = label === 0.5 ? "tie" : images[label === 1 ? 0 : 1].dataset.uid;
      return {
        are_different: true, best_image_uid: best, caption: row.dataset.prompt, created_at: time, has_label: true,
        image_0_uid: images[0].dataset.uid, image_0_url: images[0].dataset.file,
        image_1_uid: images[1].dataset.uid, image_1_url: images[1].dataset.file,
        jpg_0: bytes[0], jpg_1: bytes[1], label_0: label, label_1: 1 - label,
        model_0: runs[sides[0]].name, model_1: runs[sides[1]].name,
        num_example_per_prompt: 1, ranking_id: number, user_id: 0, __index_level_0__: number,
      };
    });
  }
  find("blind-export").addEventListener("click", () => {
    const text = exported().map((row) => JSON.stringify(row)).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = "votes.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  wall.querySelector(".tools").hidden = false;
  recall();
  arrange();
})();
