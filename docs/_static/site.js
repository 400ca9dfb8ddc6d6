// The explainers in frames say how high they are.  A frame grows with them, so that nothing jumps
// between the steps; where its width has changed the height starts anew.
addEventListener("message", ({source, data}) => {
  for (const frame of document.querySelectorAll(".explainer iframe")) {
    if (frame.contentWindow !== source || !data || !(data.height > 0)) continue;
    const before = frame.dataset.width === String(data.width) ? parseFloat(frame.style.height) : 0;
    frame.dataset.width = data.width;
    frame.style.height = `${Math.max(before, data.height + 2)}px`;  // 2: the frame's border
  }
});
