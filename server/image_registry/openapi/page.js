"use strict";
(() => {
  const root = document.documentElement;
  const find = (selector) => Array.from(document.querySelectorAll(selector));

  // Commands are for the address that this page came from.
  if (location.protocol.startsWith("http")) {
    for (const code of find(".command code, .address code")) {
      code.textContent = code.textContent.replaceAll("http://127.0.0.1:8080", location.origin);
    }
  }

  const theme = document.getElementById("theme");
  const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (stored) root.dataset.theme = stored;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* kept until the page is left */ }
  });

  for (const button of find(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.closest("figure").querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  const links = find("nav li a");
  const search = document.getElementById("search");
  search.hidden = false;
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const link of links) {
      link.parentElement.hidden = !`${link.textContent} ${link.title}`.toLowerCase().includes(wanted);
    }
    for (const heading of find("nav h2")) {
      heading.hidden = !Array.from(heading.nextElementSibling.children).some((item) => !item.hidden);
    }
  });
  search.addEventListener("keydown", (event) => {
    const first = links.find((link) => !link.parentElement.hidden);
    if (event.key === "Enter" && first) first.click();
  });

  const byAnchor = new Map(links.map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const visible = new Set();
  const sections = find("main section").filter((section) => byAnchor.has(section.id));
  const watcher = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) visible[isIntersecting ? "add" : "delete"](target);
    const current = sections.find((section) => visible.has(section));
    if (!current) return;
    for (const link of links) link.removeAttribute("aria-current");
    const link = byAnchor.get(current.id);
    link.setAttribute("aria-current", "true");
    const nav = document.querySelector("nav");
    if (nav.scrollHeight > nav.clientHeight) nav.scrollTop = link.offsetTop - nav.offsetTop - nav.clientHeight / 3;
  }, { rootMargin: "-70px 0px -60% 0px" });
  for (const section of sections) watcher.observe(section);
})();
