// Shows of the ledger what is asked for. The question is kept in the address, so that it can be sent.
"use strict";
const form = document.querySelector(".kexue-filter");
const rows = [...document.querySelectorAll("table.kexue-claims tbody tr")].map((row) => ({
  row,
  chapter: row.closest(".kexue-chapter"),
  // Before formulas are drawn, which takes their TeX away.
  words: row.textContent.toLowerCase(),
}));

function show() {
  const asked = Object.fromEntries(new FormData(form));
  const words = asked.words.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  const chapters = new Set();
  for (const one of rows) {
    const fits =
      (!asked.chapter || one.chapter.classList.contains(asked.chapter)) &&
      (!asked.status || one.row.classList.contains(asked.status)) &&
      (!asked.way || one.row.classList.contains(asked.way)) &&
      words.every((word) => one.words.includes(word));
    one.row.hidden = !fits;
    if (fits) {
      count += 1;
      chapters.add(one.chapter);
    }
  }
  for (const one of rows) one.chapter.hidden = !chapters.has(one.chapter);
  form.querySelector("output").value = `${count} of ${rows.length} checks`;
}

function remember() {
  const address = new URL(location);
  for (const [name, value] of new FormData(form)) {
    if (value) address.searchParams.set(name, value);
    else address.searchParams.delete(name);
  }
  address.hash = "";
  history.replaceState(null, "", address);
}

for (const [name, value] of new URLSearchParams(location.search)) {
  const field = form.elements.namedItem(name);
  if (field) field.value = value;
  if (field && field.value !== value) field.value = ""; // no such choice
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  show();
  remember();
});
form.hidden = false;
show();
