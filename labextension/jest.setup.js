// Lumino's widgets want it to be there, and jsdom has none.
globalThis.DragEvent ??= MouseEvent;
