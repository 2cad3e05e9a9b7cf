package smartbatch.frontend.access;

import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.net.InetSocketAddress;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.http.EarlyAnswer;

/**
 * Lets nobody else on this machine manage the server, and no page in its owner's browser.
 *
 * <p>A page may send simple requests anywhere, and with a name of its own that resolves to 127.0.0.1 it may even read
 * the answers; the browser then tells its origin, or that name as the host. Other machines' requests are left to tokens
 * where those are on.
 */
public final class Owner extends EarlyAnswer {
    private final Rules rules;
    private final boolean asksTokens;
    private String refusal;
    private boolean hasLooked;

    /** @param asksTokens whether tokens are asked for behind this handler. */
    public Owner(Rules rules, boolean asksTokens) {
        this.rules = rules;
        this.asksTokens = asksTokens;
    }

    @Override
    protected FullHttpResponse answer(ChannelHandlerContext context, HttpRequest request) {
        Channel channel = context.channel();
        if (asksTokens && !Rules.isNear(channel.remoteAddress())) {
            return null;
        }
        String site = request.headers().get("sec-fetch-site", "none");
        String origin = request.headers().get(HttpHeaderNames.ORIGIN, site.matches("none|same-origin") ? null : site);
        if (origin != null && !rules.lists(Rules.ORIGINS, origin)) {
            return forbidden("foreign_origin", "no page may manage this server but those in " + Rules.ORIGINS);
        }
        for (String host : request.headers().getAll(HttpHeaderNames.HOST)) {
            if (!isOurs(host.replaceFirst(":\\d*$", ""), channel)) {
                return forbidden("foreign_host", "this server is not called " + host + "; see " + Rules.HOSTS);
            }
        }
        if (!hasLooked) { // a connection keeps its owner
            refusal = rules.refusal(channel.localAddress(), channel.remoteAddress());
            hasLooked = true;
        }
        return refusal == null ? null : forbidden("not_owner", refusal);
    }

    /** A name that a page had made to resolve to this machine is none of ours; addresses cannot be made to. */
    private boolean isOurs(String host, Channel channel) {
        boolean isDialled =
                channel.localAddress() instanceof InetSocketAddress dialled
                        && host.equals(dialled.getAddress().getHostAddress());
        return isDialled || host.matches("127(\\.\\d{1,3}){3}|\\[::1]") || rules.isOurs(host);
    }

    private static FullHttpResponse forbidden(String code, String message) {
        return Answer.error(HttpResponseStatus.FORBIDDEN, code, message);
    }
}
