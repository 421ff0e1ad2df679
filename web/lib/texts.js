// @ts-check
/** What the browser writes, in every language of locales/. What the server says is English everywhere, and shown as it is. */

const ENGLISH = {
  gammaChart: "Gamma over the run",
  gammaPanel: "γ, with the unpatched model at 1",
  gammaAllAlong: "γ {gamma} throughout",
  gammaAt: "{gamma} at {percent} %",
  gammaWords: "from {first} to {last}; {at}.",
  noPreview: "The server gave no preview. The node works without it.",
  stabilityChart: "Stability while sampling",
  waiting: "The measures of every step appear here while the model samples.",
  unmeasured: "Sampling. Nothing is measured yet.",
  nothing: "{status}: nothing was measured.",
  where: "step {step} at {percent} %, σ {sigma}",
  words: "{status}, {where}: {values}.",
  earlierStatus: "earlier run, {status}",
  earlierRun: "Earlier run.",
  lastRun: "last run",
  noPart: "Bypassed or muted: this node took no part in the newest run.",
  uploadTrace: "upload a trace",
  uploadBaseline: "upload a baseline",
  refused: "The server did not accept {file} (status {status}).",
  image: "image {number}",
  failed: "failed ({why})",
};

/** @typedef {keyof typeof ENGLISH} Key */
/** @typedef {Record<string, string | number>} Values what replaces the braces of a text. */

/** @type {Record<string, Record<Key, string>>} */
export const TEXTS = {
  en: ENGLISH,
  fr: {
    gammaChart: "γ au fil de l'exécution",
    gammaPanel: "γ, et le modèle intact à 1",
    gammaAllAlong: "γ {gamma} du début à la fin",
    gammaAt: "{gamma} à {percent} %",
    gammaWords: "de {first} à {last} ; {at}.",
    noPreview: "Le serveur n'a pas donné d'aperçu ; le nœud fonctionne sans.",
    stabilityChart: "Stabilité pendant l'échantillonnage",
    waiting: "Les mesures de chaque étape apparaissent ici pendant l'échantillonnage.",
    unmeasured: "Échantillonnage en cours ; rien n'est encore mesuré.",
    nothing: "{status} ; rien n'a été mesuré.",
    where: "étape {step} à {percent} %, σ {sigma}",
    words: "{status}, {where} : {values}.",
    earlierStatus: "exécution précédente, {status}",
    earlierRun: "Exécution précédente.",
    lastRun: "dernière exécution",
    noPart: "Contourné ou muet : ce nœud ne prend pas part à la dernière exécution.",
    uploadTrace: "envoyer une trace",
    uploadBaseline: "envoyer une référence",
    refused: "Le serveur n'a pas accepté {file} (statut {status}).",
    image: "image {number}",
    failed: "échec ({why})",
  },
  ja: {
    gammaChart: "実行中の γ",
    gammaPanel: "γ（1 は元のモデル）",
    gammaAllAlong: "γ は最初から最後まで {gamma}",
    gammaAt: "{percent} % で {gamma}",
    gammaWords: "{first} から {last} まで。{at}。",
    noPreview: "サーバーからプレビューが得られませんでした。ノードはプレビューなしで動きます。",
    stabilityChart: "サンプリング中の安定性",
    waiting: "サンプリング中、各ステップの測度がここに表示されます。",
    unmeasured: "サンプリング中です。まだ何も測定されていません。",
    nothing: "{status}。何も測定されませんでした。",
    where: "ステップ {step}（{percent} %）、σ {sigma}",
    words: "{status}、{where}：{values}。",
    earlierStatus: "以前の実行、{status}",
    earlierRun: "以前の実行です。",
    lastRun: "最新の実行",
    noPart: "バイパスまたはミュート中：このノードは最新の実行に加わっていません。",
    uploadTrace: "トレースをアップロード",
    uploadBaseline: "ベースラインをアップロード",
    refused: "サーバーは {file} を受け付けませんでした（ステータス {status}）。",
    image: "画像 {number}",
    failed: "失敗（{why}）",
  },
  ko: {
    gammaChart: "실행 중의 γ",
    gammaPanel: "γ (1은 원래 모델)",
    gammaAllAlong: "γ는 처음부터 끝까지 {gamma}",
    gammaAt: "{percent} %에서 {gamma}",
    gammaWords: "{first}에서 {last}까지. {at}.",
    noPreview: "서버가 미리보기를 주지 않았습니다. 노드는 미리보기 없이도 작동합니다.",
    stabilityChart: "샘플링 중의 안정성",
    waiting: "샘플링하는 동안 단계마다 측도가 여기에 나타납니다.",
    unmeasured: "샘플링 중입니다. 아직 측정된 것이 없습니다.",
    nothing: "{status}. 측정된 것이 없습니다.",
    where: "단계 {step} ({percent} %), σ {sigma}",
    words: "{status}, {where}: {values}.",
    earlierStatus: "이전 실행, {status}",
    earlierRun: "이전 실행입니다.",
    lastRun: "마지막 실행",
    noPart: "우회 또는 음소거됨: 이 노드는 가장 최근 실행에 참여하지 않았습니다.",
    uploadTrace: "트레이스 업로드",
    uploadBaseline: "기준선 업로드",
    refused: "서버가 {file}을(를) 받지 않았습니다(상태 {status}).",
    image: "이미지 {number}",
    failed: "실패 ({why})",
  },
  zh: {
    gammaChart: "运行过程中的 γ",
    gammaPanel: "γ（1 为未改动的模型）",
    gammaAllAlong: "γ 始终为 {gamma}",
    gammaAt: "{percent} % 处为 {gamma}",
    gammaWords: "从 {first} 到 {last}；{at}。",
    noPreview: "服务器没有给出预览；没有预览节点也能工作。",
    stabilityChart: "采样过程中的稳定性",
    waiting: "模型采样时，每一步的度量会显示在这里。",
    unmeasured: "正在采样，尚未测量。",
    nothing: "{status}；没有测量到任何内容。",
    where: "第 {step} 步（{percent} %），σ {sigma}",
    words: "{status}，{where}：{values}。",
    earlierStatus: "较早的运行，{status}",
    earlierRun: "较早的运行。",
    lastRun: "最近一次运行",
    noPart: "已绕过或静音：此节点未参与最新的运行。",
    uploadTrace: "上传轨迹",
    uploadBaseline: "上传基线",
    refused: "服务器没有接受 {file}（状态 {status}）。",
    image: "图像 {number}",
    failed: "失败（{why}）",
  },
};

/**
 * What charts get from the server by these names; all other names are shown as they come.
 * @type {Record<string, Record<string, string>>}
 */
export const NAMES = {
  fr: {
    running: "en cours",
    finished: "terminé",
    interrupted: "interrompu",
    "connection lost": "connexion perdue",
    "server restarted": "serveur redémarré",
    all: "tous",
    energy: "énergie",
    instability: "instabilité",
    alignment: "alignement",
    symmetricity: "symétrie",
    depth: "profondeur",
    "relative curvature": "courbure relative",
  },
  ja: {
    running: "実行中",
    finished: "完了",
    interrupted: "中断",
    "connection lost": "接続が切れました",
    "server restarted": "サーバー再起動",
    all: "全体",
    energy: "エネルギー",
    instability: "不安定性",
    alignment: "整合度",
    symmetricity: "対称度",
    depth: "深さ",
    "relative curvature": "相対曲率",
  },
  ko: {
    running: "실행 중",
    finished: "완료",
    interrupted: "중단됨",
    "connection lost": "연결 끊김",
    "server restarted": "서버 재시작됨",
    all: "전체",
    energy: "에너지",
    instability: "불안정성",
    alignment: "정렬도",
    symmetricity: "대칭도",
    depth: "깊이",
    "relative curvature": "상대 곡률",
  },
  zh: {
    running: "运行中",
    finished: "已完成",
    interrupted: "已中断",
    "connection lost": "连接中断",
    "server restarted": "服务器已重启",
    all: "全部",
    energy: "能量",
    instability: "不稳定性",
    alignment: "对齐度",
    symmetricity: "对称度",
    depth: "深度",
    "relative curvature": "相对曲率",
  },
};

/**
 * A text in a language; English where the language is not among ours.
 * @param {string} locale
 * @param {Key} key
 * @param {Values} [values]
 */
export function textIn(locale, key, values = {}) {
  return (Object.hasOwn(TEXTS, locale) ? TEXTS[locale] : ENGLISH)[key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/**
 * A name that the server gives a measure, a part or the state of a run, in a language.
 * @param {string} locale
 * @param {string} name
 */
export function nameIn(locale, name) {
  const [, why] = name.match(/^failed \((.*)\)$/s) ?? [];
  const [, number] = name.match(/^image (\d+)$/) ?? [];
  if (why !== undefined) return textIn(locale, "failed", { why });
  if (number !== undefined) return textIn(locale, "image", { number });
  const names = Object.hasOwn(NAMES, locale) ? NAMES[locale] : {};
  return Object.hasOwn(names, name) ? names[name] : name;
}

/**
 * The two functions above, in the language of the editor as it is set when they are called.
 * @param {any} app the editor.
 */
export function languageOf(app) {
  const locale = () => app.extensionManager?.setting?.get?.("Comfy.Locale") ?? "en";
  return {
    text: (/** @type {Key} */ key, /** @type {Values} */ values = {}) => textIn(locale(), key, values),
    name: (/** @type {string} */ name) => nameIn(locale(), name),
  };
}
