"use strict";
(() => {
  const parse = (element) => JSON.parse(element.textContent);

  // Bound numbers: show the cell and the full value on hover.
  for (const number of document.querySelectorAll("data[data-cell]")) {
    number.title = `${number.value}\n${number.dataset.cell}`;
  }

  // Figures: one colour swap turns the light theme into the dark one.
  const dark = parse(document.getElementById("dark-colours"));
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = parse(document.getElementById("plot-config"));
  const draw = () => {
    for (const data of document.querySelectorAll("script.plot-data")) {
      let text = data.textContent;
      if (wantsDark.matches) for (const [light, other] of Object.entries(dark)) text = text.replaceAll(light, other);
      const figure = JSON.parse(text);
      const plot = data.parentElement.querySelector(".plot");
      plot.style.minWidth = `${figure.layout.meta?.min_width ?? 560}px`;
      Plotly.react(plot, figure.data, figure.layout, config);
    }
  };
  draw();
  wantsDark.addEventListener("change", draw);

  // Sample browsers: model text enters the page through textContent only.
  const PAGE = 50;
  const make = (tag, text = "", className = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    element.className = className;
    return element;
  };
  const labelled = (name, control) => {
    const label = make("label", name);
    control.setAttribute("aria-label", name);
    label.append(control);
    return label;
  };
  const choice = (name, values) => {
    const select = make("select");
    for (const value of ["all", ...values]) {
      const option = make("option", value);
      option.value = value === "all" ? "" : value;
      select.append(option);
    }
    return [select, labelled(name, select)];
  };
  const sampleRow = (sample) => {
    const row = make("tr");
    const source = make("td", sample.source);
    source.append(make("small", sample.adapter.replaceAll("/", "/\u200b")));
    const question = make("td", sample.question);
    question.append(make("small", `completion ${sample.index}`));
    const completion = make("td", "", "completion");
    for (const [text, marked] of sample.segments) completion.append(marked ? make("mark", text) : text);
    row.append(source, make("td", sample.prompt), question, completion);
    row.title = sample.cell;
    return row;
  };
  for (const block of document.querySelectorAll("figure.samples")) {
    const samples = parse(block.querySelector("script.sample-data"));
    for (const sample of samples) {
      sample.marker = sample.segments.some(([, marked]) => marked) ? "with marker" : "without marker";
      sample.lower = sample.segments.map(([text]) => text).join("").toLowerCase();
    }
    const form = block.querySelector("form");
    const body = block.querySelector("tbody");
    const more = block.querySelector("button.more");
    const selects = ["source", "prompt", "question", "marker"].map((name) => {
      const [select, label] = choice(name, [...new Set(samples.map((sample) => sample[name]))].sort());
      form.append(label);
      return [name, select];
    });
    const search = make("input");
    search.type = "search";
    const count = make("output");
    form.append(labelled("text contains", search), count);
    let limit = PAGE;
    const show = () => {
      const needle = search.value.toLowerCase();
      const chosen = samples.filter((sample) =>
        selects.every(([name, select]) => !select.value || sample[name] === select.value) && sample.lower.includes(needle));
      body.replaceChildren(...chosen.slice(0, limit).map(sampleRow));
      count.textContent = `${chosen.length} of ${samples.length} completions`;
      more.hidden = chosen.length <= limit;
    };
    form.addEventListener("input", () => { limit = PAGE; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => { limit += PAGE; show(); });
    show();
  }
})();
