// Lists that users type into text inputs, as nodes/typed_lists.py reads them.

/** @param {string} text items between commas or line breaks */
export const splitList = (text) => String(text).trim().split(/\s*[,\uff0c\u3001\u060c]\s*|\s*[\r\n]\s*/).filter(Boolean);

/** @param {string} text full-width or typographic signs become those of ASCII */
export const plainSigns = (text) => text.normalize("NFKC").replace(/[\u2212\u2010\u2013\u2014]/g, "-");
