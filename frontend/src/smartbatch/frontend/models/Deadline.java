package smartbatch.frontend.models;

import java.util.Map;

/** When a client stops waiting, as its headers say it; handler/smartbatch_worker/torchserve/requests.py reads them too. */
final class Deadline {
    private static final double MAX_CLOCK_AHEAD_S = 1.0; // a later start is another clock's, or made up

    private Deadline() {}

    /**
     * Whether it has passed; never where the budget is no number, which is for the handler to say.
     *
     * @param arrivalNanos when the request came, by {@link System#nanoTime}: the budget's start unless a header has it.
     */
    static boolean hasPassed(Map<String, String> headers, long arrivalNanos) {
        String budgetMs = find(headers, "X-Request-Deadline-Ms");
        if (budgetMs == null) {
            return false;
        }
        double nowS = System.currentTimeMillis() / 1e3;
        double startS = number(find(headers, "X-Request-Start"));
        if (!(startS <= nowS + MAX_CLOCK_AHEAD_S)) {
            startS = nowS - (System.nanoTime() - arrivalNanos) / 1e9;
        }
        return startS + number(budgetMs) / 1e3 <= nowS;
    }

    private static String find(Map<String, String> headers, String name) {
        for (Map.Entry<String, String> header : headers.entrySet()) {
            if (name.equalsIgnoreCase(header.getKey())) {
                return header.getValue();
            }
        }
        return null;
    }

    /** NaN, which compares as false with everything, for what is no number of at least 0. */
    private static double number(String text) {
        if (text == null) {
            return Double.NaN;
        }
        String trimmed = text.trim();
        try {
            double value = Double.parseDouble(trimmed.startsWith("t=") ? trimmed.substring(2) : trimmed);
            return value >= 0 ? value : Double.NaN;
        } catch (NumberFormatException e) {
            return Double.NaN;
        }
    }
}
